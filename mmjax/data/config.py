"""Fields of the data: sources, images, texts, workers."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class VideoDataConfig:
    """Which frames of a video a model sees; how they are cropped and resized say the fields of images."""

    stride: int = 0
    """training: from one frame to the next; 0 = frames that are spread over the video, as evaluation has them"""
    rate: float = 0.0
    """frames a second before any are chosen; 0 = the file's own"""


@dataclass(frozen=True, kw_only=True)
class AudioDataConfig:
    """Spectrograms of sounds."""

    preset: Literal["", "ast", "whisper", "mbt"] = ""
    """whose filters, windows, normalisation and padding; '' = 'whisper' for its encoder, 'ast' for others"""
    sample_rate: int = 0
    """Hz, to which sounds are resampled; 0 = the preset's 16,000"""
    longer: Literal["crop", "bad"] = "crop"
    """training: a sound that is longer than the spectrogram is cropped at random, or a bad example, as one whose
    transcript says more than the crop"""
    time_masks: tuple[int, int] = (0, 0)
    """training: SpecAugment's masks of time, and frames of the widest one"""
    time_share: float = 1.0
    """training: no mask of time is wider than this share of the spectrogram"""
    frequency_masks: tuple[int, int] = (0, 0)
    """training: SpecAugment's masks of frequency, and mel bins of the widest one"""


@dataclass(frozen=True, kw_only=True)
class SeparationDataConfig:
    """Mixtures of sounds, and their spectrograms; the defaults are Sound of Pixels'."""

    sample_rate: int = 11025
    """Hz, to which sounds are resampled"""
    n_fft: int = 1022
    """samples of a Hann window"""
    hop: int = 256
    """samples from frame to frame, at most half a window"""
    frames: int = 256
    """of a stretch, which has frames * hop - 1 samples"""
    log_bins: int = 256
    """bins of the logarithmic axis of masks; 0 = the n_fft // 2 + 1 of the transform"""
    sources: int = 2
    """sounds of a mixture"""
    gain: tuple[float, float] = (0.5, 1.5)
    """training: least and largest factor of a sound before it is mixed"""


@dataclass(frozen=True, kw_only=True)
class TableDataConfig:
    """Columns of tables that are read as rows: numbers standardised, categories by number, texts tokenised."""

    columns: str = ""
    """'age,job@category,notes@text' of CSV, Parquet, ... or of KEY.json in tars; '@number', '@category' or '@text' says
    what a column is, without it the data do; '' = arrays as sources have them"""
    max_categories: int = 256
    """of a column; one with more ends the run at its start"""
    sample: int = 0
    """rows, spread over the data, from which statistics and categories are; 0 = all"""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is trained and evaluated on, and how it is prepared."""

    train: str = ""
    """mixture: 'wds:DIR/{00000..01242}.tar@0.7+pairs:FILE.tsv@0.3'; all sources: docs/data.md"""
    eval: str = ""
    """evaluated one by one: 'shapes/test+digits/test'"""
    image_key: str = ""
    """field that holds the image: a column, or endings in a tar ('jpg;png'); '' finds it; '|' separates parts for each
    source of the mixture; '+' joins columns of files of a table, each another modality"""
    caption_keys: str = ""
    """fields that hold captions, e.g. 'json:caption@0.7+txt@0.3'; '' finds them, 'none' is examples without texts; '|'
    separates parts for each source of the mixture: 'txt|title'"""
    label_key: str = ""
    """field that holds the class: a column, an ending in a tar ('cls') or a field of its JSON ('json:label'); '' finds
    it where there are no captions, or the model learns classes; '|' separates parts as above"""
    encoding: str = "utf-8"
    """of texts in tars, of files beside images and of tables: 'gbk', 'latin-1', ...; a text that is not in it is a bad
    example, and one that begins with a byte order mark is read by that"""
    table_paths: Literal["folder", "storage", "any"] = "storage"
    """images that a table (`pairs:`, `parquet:`) may name: 'folder' = in its folder or `,images=DIR`; 'storage' = any
    on the disk or in the bucket that it is in; 'any' = URLs of other storages too"""
    separator: str = ""
    """between the cells of tables: one character, or tab; '' finds it by the header"""
    order: Literal["global", "windowed"] = "global"
    """'global' permutes all examples; 'windowed' shards, then examples within `window` of them"""
    window: int = 8
    """shards"""
    cache: str = ""
    """folder for indexes, tables and remote shards; '' = the user's cache folder"""
    cache_gb: float = 100.0
    """remote shards kept there"""
    retry_seconds: float = 120.0
    """how long a failing bucket or server is asked again"""
    tokenizer: str = "clip"
    """'clip', 'bytes', 'words:FILE', 'sentencepiece:FILE', 'json:FILE'"""
    context_length: int = 0
    """tokens of a text; 0 = the model's"""
    pack_texts: Literal["auto", "on", "off"] = "auto"
    """no work on padding where the outputs stay the same: 'auto' (not on CPU), 'on', 'off'; texts of two towers are
    packed, several a row; those of models that write or fuse are grouped by length"""
    packed_rows: int = 0
    """rows a device and microbatch computes; 0 = as a sample of the captions needs"""
    length_groups: str = ""
    """rows x tokens of a device and microbatch: '8x77,24x33'; '' = as a sample of the texts needs"""
    texts: Literal["captions", "questions", "answers"] = "captions"
    """what the model reads or writes: 'captions', 'questions' (classified), 'answers' (written)"""
    question_template: str = "{question}"
    """of 'answers': what stands around a question, such as 'USER: <image>\\n{question} ASSISTANT:' (LLaVA)"""
    caption_prompt: str = ""
    """of 'captions': what stands before each, is given and not learned: '<|{language}|><|{task}|><|notimestamps|>'
    (Whisper), with a record's `language` and `task`; '' = captions alone"""
    blind: bool = False
    """show the model empty images, videos or sounds: what can be known from the texts alone"""
    answers: str = ""
    """file with one answer a line, for 'questions'; '' = those of the training data itself"""
    positives: Literal["id", "text", "diagonal"] = "id"
    """'id': equal ids (of an image, a class) are positives of one another; 'text': equal texts, too; 'diagonal': every
    pair is its own class"""
    mean_std: str = "clip"
    """'clip', 'siglip' (0.5), 'imagenet', 'vivit', 'none' (pixels from 0 to 1)"""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    """or 'bilinear'"""
    antialias: bool = True
    """False: 'bilinear' from the four nearest pixels, as big_vision's `resize`"""
    resize: Literal["crop", "squash"] = "crop"
    """evaluation: 'crop' (shortest side, centre crop) or 'squash'"""
    image_rule: Literal["mmjax", "open_clip", "huggingface", "big_vision"] = "mmjax"
    """evaluation as 'open_clip', 'huggingface' or 'big_vision' have it: docs/interop.md"""
    train_resize: Literal["crop", "squash", "center"] = "crop"
    """training: 'crop' (RandomResizedCrop), 'squash' (the whole image), 'center' (its middle)"""
    crop_scale: tuple[float, float] = (0.9, 1.0)
    """train_resize='crop': share of the area that is kept"""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """train_resize='crop': aspect ratio of what is kept"""
    flip: bool = False
    """training: mirror half of the images"""
    color_jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """training: brightness, contrast, saturation, hue, as torchvision has them"""
    color_jitter_prob: float = 1.0
    """training: share of the images that are jittered"""
    grayscale: float = 0.0
    """training: share of the images that lose their colours"""
    randaugment: tuple[int, int] = (0, 9)
    """training: RandAugment's operations an image (0 = off) and their magnitude"""
    randaugment_policy: Literal["torchvision", "albef", "big_vision"] = "torchvision"
    """whose RandAugment; magnitudes are 0 to 30, of 'albef', 'big_vision' 0 to 10"""
    draft: bool = True
    """training: let libjpeg decode large images at 1/2, 1/4 or 1/8, never below the crop's size"""
    video: VideoDataConfig = field(default_factory=VideoDataConfig)
    """which frames of a video are seen"""
    audio: AudioDataConfig = field(default_factory=AudioDataConfig)
    """spectrograms of sounds"""
    separation: SeparationDataConfig = field(default_factory=SeparationDataConfig)
    """mixtures of sounds"""
    table: TableDataConfig = field(default_factory=TableDataConfig)
    """columns of tables"""
    resize_on: Literal["auto", "host", "device"] = "auto"
    """training: where decoded images are cropped and resized, 'host' or 'device'; docs/data.md"""
    workers: int = 0
    """processes that decode; 0 = threads of this one"""
    threads: int = 0
    """in each of them, for storage that answers slowly; 0 = one, and one a core without workers"""
    prefetch: int = 2
    """batches made ahead"""
    max_bad_fraction: float = 0.01
    """stop when more of the examples, or of a set's shards or a table's rows, than this cannot be read"""

"""Fields of the evaluation of `data.eval`, and of suites of evaluations."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal


@dataclass(frozen=True, kw_only=True)
class ClipScoreConfig:
    """How CLIPScore reads captions and references."""

    prefix: str = "A photo depicts "
    """what they begin with; the default is that of Hessel et al. 2021"""


@dataclass(frozen=True, kw_only=True)
class KnnConfig:
    """How k nearest neighbours are counted; see mmjax/evaluation/evaluators/probes.py."""

    ks: tuple[int, ...] = (10, 20)
    """numbers of neighbours; the report shows the first"""
    vote: Literal["weighted", "plain"] = "weighted"
    """weighted (by exp(cosine / 0.07), as DINO) or plain (one neighbour, one vote)"""


@dataclass(frozen=True, kw_only=True)
class FewShotConfig:
    """How few-shot episodes are drawn; see mmjax/evaluation/evaluators/probes.py."""

    ways: int = 5
    """classes in an episode"""
    shots: tuple[int, ...] = (1, 5)
    """examples to learn a class from; episodes are drawn for every number"""
    queries: int = 15
    """other examples of each class to classify"""
    episodes: int = 600
    """how many are drawn"""
    head: Literal["centroid", "logistic"] = "centroid"
    """centroid (the most similar mean of a class) or logistic (logistic regression)"""


@dataclass(frozen=True, kw_only=True)
class SpeechRecognitionConfig:
    """How transcripts are compared; see mmjax/metrics/word_errors.py."""

    normalization: Literal["none", "basic"] = "none"
    """none (as written, but for spaces) or basic (Whisper's for all languages: lower case, no punctuation, nothing in
    brackets)"""


@dataclass(frozen=True, kw_only=True)
class SynchronizationConfig:
    """How clips are synchronised; see mmjax/evaluation/evaluators/synchronization.py."""

    windows: int = 0
    """windows of a clip, one frame apart, whose similarities are averaged; 0 = loss.sync_windows"""


@dataclass(frozen=True, kw_only=True)
class SourceSeparationConfig:
    """How mixtures of held-out sounds are drawn; see mmjax/evaluation/evaluators/source_separation.py."""

    mixtures: int = 256
    """how many, by the seed; 0 = one of every example"""


@dataclass(frozen=True, kw_only=True)
class VideoViewsConfig:
    """Of how many parts of a video the mean is taken; see docs/evaluation.md."""

    clips: int = 1
    """clips of a video, from its beginning to its end, of which embeddings or probabilities are averaged; with
    data.video.stride=0 each is spread over all of it"""
    crops: int = 1
    """crops of each clip, 1 (the middle) or 3 (both ends of the longer side, too)"""


@dataclass(frozen=True, kw_only=True)
class AudioViewsConfig:
    """Of how many parts of a sound the mean is taken; see docs/evaluation.md."""

    clips: int = 1
    """windows of a sound that is longer than the model's spectrogram, from its beginning to its end, of which
    embeddings or probabilities are averaged"""


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What evaluations read besides model and data, in a suite as elsewhere."""

    prefix: ClassVar[str] = ""
    """of the fields, in a config of this class"""

    seed: int = 0
    """of the probe's split, few-shot episodes and the bootstrap"""
    bootstrap: int = 0
    """resamples for 95 % intervals of zero-shot accuracy, recalls and CLIPScore; 0 = none"""
    clip_score: ClipScoreConfig = field(default_factory=ClipScoreConfig)
    """of the task clip_score"""
    knn: KnnConfig = field(default_factory=KnnConfig)
    """of the task knn"""
    few_shot: FewShotConfig = field(default_factory=FewShotConfig)
    """of the task few_shot"""
    speech_recognition: SpeechRecognitionConfig = field(default_factory=SpeechRecognitionConfig)
    """of the task speech_recognition"""
    synchronization: SynchronizationConfig = field(default_factory=SynchronizationConfig)
    """of the task synchronization"""
    source_separation: SourceSeparationConfig = field(default_factory=SourceSeparationConfig)
    """of the task source_separation"""
    video: VideoViewsConfig = field(default_factory=VideoViewsConfig)
    """clips and crops of a video, in what embeds or classifies"""
    audio: AudioViewsConfig = field(default_factory=AudioViewsConfig)
    """windows of a sound, in what embeds or classifies"""
    corrupt: str = ""
    """corruptions of held-out examples, on which metrics are given as well: image:noise0.1/0.2+audio:snr20/10; see
    docs/evaluation.md"""
    added: Mapping[str, Any] = field(default_factory=dict)
    """fields of the evaluations of plugins, by name; in a config they are eval.NAME, in a suite NAME"""


@dataclass(frozen=True, kw_only=True)
class EvalConfig(EvaluationSettings):
    """When a run is evaluated, and what the evaluation reads of a record."""

    prefix: ClassVar[str] = "eval."

    every: int = 1000
    """steps; 0 = only at the end"""
    batch_size: int = 256
    """rows encoded at a time over all devices, 16,384 each at most, and rows of the held-out loss"""
    image_key: str = ""
    """as data.image_key, for data.eval"""
    caption_keys: str = ""
    """as data.caption_keys, for data.eval"""
    label_key: str = ""
    """as data.label_key, for data.eval"""
    meteor: bool = False
    """METEOR of written captions: needs pip install 'mmjax[metrics]' and Java"""
    tasks: tuple[str, ...] = ()
    """what is evaluated, of docs/evaluation.md's table; () = all that the model was trained for"""
    train: str = ""
    """sources of the images that probes learn from, one for each of data.eval that they are run on, joined by +"""


@dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """How text is written in evaluation."""

    method: Literal["greedy", "beam", "sample"] = "greedy"
    """how text is written in evaluation: 'greedy', 'beam', 'sample'"""
    max_tokens: int = 0
    """at most; 0 = as many as a text has, or as there are positions after the longest question"""
    min_tokens: int = 0
    """at least"""
    beams: int = 4
    """hypotheses of beam search"""
    length_penalty: float = 1.0
    """beam: score = log-probability / length ** this"""
    temperature: float = 1.0
    """sample: what the logits are divided by"""
    top_k: int = 0
    """sample: among so many tokens; 0 = all"""
    top_p: float = 1.0
    """sample: among the likeliest that have this probability together"""


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """A dataset of a suite."""

    source: str
    """as data.eval has it; {root} stands for the suite's"""
    tasks: tuple[str, ...] = ("zeroshot_classification",)
    """what is evaluated on it, of docs/evaluation.md's table"""
    train: str = ""
    """source of the images that probes learn from"""
    prompts: str = ""
    """class names and templates, see docs/evaluation.md; '' takes the source's, or published ones of its name"""
    main_metric: str = ""
    """what stands for it in a mean over several; '' = acc1, in retrieval mean_recall@1 (of both directions)"""
    fold_size: int = 0
    """images in a fold of retrieval (1000 for COCO's 1k protocol); 0 = no folds"""
    language: str = "en"
    """of the texts, for the records"""
    image_key: str = ""
    """as data.image_key, of this dataset; '' finds it"""
    caption_keys: str = ""
    """as data.caption_keys, of this dataset; '' finds them"""
    label_key: str = ""
    """as data.label_key, of this dataset; '' finds it"""


@dataclass(frozen=True, kw_only=True)
class SuiteConfig(EvaluationSettings):
    """A suite of evaluations."""

    plugins: tuple[str, ...] = ()
    """modules of others that register what the suite names; also --plugins="""
    root: str = "data"
    """folder or URL that stands for {root} in sources"""
    collection: str = "embedded"
    """which datasets to run: a collection, or names of datasets and collections joined by +"""
    missing: Literal["error", "skip"] = "error"
    """what a dataset that cannot be opened is: a mistake (error), or left out (skip)"""
    datasets: Mapping[str, DatasetConfig] = field(default_factory=dict)
    """datasets by name, in the order in which they run"""
    collections: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """names of datasets, by the name of the collection"""

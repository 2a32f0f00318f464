"""Registries: all classes and functions that a config names, ours and those of others.

Code of others registers what it brings; `mmjax.plugin_imports` says which modules that are, and when they are imported:

    from mmjax.plugin import sources

    @sources.register("mine", ":FILE")
    class Mine: ...
"""

from mmjax.registry.named_items import Registry

# `data.train`, `data.eval`: made from what follows the name, see `data.mixture`.
sources = Registry(
    "source",
    {
        "digits": "mmjax.data.sources.digits:Digits",
        "shapes": "mmjax.data.sources.shapes:Shapes",
        "questions": "mmjax.data.sources.questions:Questions",
        "sensors": "mmjax.data.sources.sensors:Sensors",
        "moving": "mmjax.data.sources.moving:Moving",
        "actions": "mmjax.data.sources.actions:Actions",
        "video_questions": "mmjax.data.sources.video_questions:VideoQuestions",
        "clicks": "mmjax.data.sources.clicks:Clicks",
        "bouncing": "mmjax.data.sources.bouncing:Bouncing",
        "tones": "mmjax.data.sources.tones:Tones",
        "instruments": "mmjax.data.sources.instruments:Instruments",
        "synthetic": "mmjax.data.sources.synthetic:Synthetic",
        "pairs": "mmjax.data.sources.pairs:Pairs",
        "files": "mmjax.data.sources.files:Files",
        "librispeech": "mmjax.data.sources.librispeech:LibriSpeech",
        "folder": "mmjax.data.sources.folder:Folder",
        "karpathy": "mmjax.data.sources.karpathy:Karpathy",
        "vqa": "mmjax.data.sources.vqa:Vqa",
        "sugarcrepe": "mmjax.data.sources.sugarcrepe:SugarCrepe",
        "winoground": "mmjax.data.sources.winoground:Winoground",
        "wds": "mmjax.data.sources.wds:WebDataset",
        "parquet": "mmjax.data.sources.parquet:Parquet",
        "tfds": "mmjax.data.sources.tfds:Tfds",
        "arrayrecord": "mmjax.data.sources.arrayrecord:ArrayRecords",
        "hf": "mmjax.data.sources.hf:HuggingFace",
    },
    forms={
        **dict.fromkeys(
            (
                *("digits", "shapes", "questions", "sensors"),
                *("moving", "video_questions", "actions", "clicks", "bouncing", "tones", "instruments"),
            ),
            "[/SPLIT]",
        ),
        "synthetic": "[/N]",
        "pairs": ":FILE.{csv,tsv,jsonl,json}",
        **dict.fromkeys(("files", "folder", "librispeech"), ":DIR"),
        "karpathy": ":FILE.json/SPLIT",
        "vqa": ":FILE.{json,jsonl}",
        "sugarcrepe": ":FILE.json",
        "winoground": ":FILE.jsonl",
        **dict.fromkeys(("wds", "parquet", "arrayrecord"), ":PATTERN"),
        "tfds": ":NAME/SPLIT",
        "hf": ":DIR[/SPLIT]",
    },
    fields="never",
)
# `data.tokenizer`: `make(spec, context_length)`, with `path` and `content` where it has a file.
tokenizers = Registry(
    "tokenizer",
    {
        "clip": "mmjax.data.text.clip_bpe:make_clip",
        "bytes": "mmjax.data.text.utf8_bytes:make_bytes",
        "words": "mmjax.data.text.word_vocab:make_words",
        "sentencepiece": "mmjax.data.text.sentencepiece_model:make_sentencepiece",
        "json": "mmjax.data.text.json_encoder:make_json",
    },
    forms={"words": ":PATH", "sentencepiece": ":PATH", "json": ":PATH"},
    fields="never",
)
# `model.kind`: flax modules, and the dataclasses of `model`.
models = Registry(
    "model",
    {
        "two_tower": "mmjax.models.two_tower:TwoTower",
        "captioner": "mmjax.models.captioner:Captioner",
        "coca": "mmjax.models.coca:CoCa",
        "albef": "mmjax.models.albef:ALBEF",
        "vilt": "mmjax.models.vilt:ViLT",
        "qformer": "mmjax.models.qformer:QFormer",
        "blip": "mmjax.models.blip:BLIP",
        "prefix_lm": "mmjax.models.prefix_lm:PrefixLM",
        "fused": "mmjax.models.fusion.classifier:FusedClassifier",
        "separator": "mmjax.models.separator:Separator",
    },
    configs={
        "two_tower": "mmjax.models.config:TwoTowerConfig",
        "captioner": "mmjax.models.config:CaptionerConfig",
        "coca": "mmjax.models.config:CoCaConfig",
        "albef": "mmjax.models.config:ALBEFConfig",
        "vilt": "mmjax.models.config:ViLTConfig",
        "qformer": "mmjax.models.config:QFormerConfig",
        "blip": "mmjax.models.config:BLIPConfig",
        "prefix_lm": "mmjax.models.config:PrefixLMConfig",
        "fused": "mmjax.models.fusion.config:FusedConfig",
        "separator": "mmjax.models.config:SeparatorConfig",
    },
    fields="always",
)
_OF_FUSION = "image text video frames audio whisper series table features"
# `model.encoders.NAME.kind`: flax modules that make tokens of one modality, and the dataclasses of their fields.
encoders = Registry(
    "encoder",
    {
        "image": "mmjax.models.encoders:VisionTransformer",
        "resnet": "mmjax.models.conv.resnet:ModifiedResNet",
        "convnext": "mmjax.models.conv.convnext:ConvNeXt",
        "text": "mmjax.models.encoders:TextTransformer",
        "video": "mmjax.models.modality_encoders:VideoTransformer",
        "frames": "mmjax.models.frames_encoder:FramesEncoder",
        "audio": "mmjax.models.modality_encoders:AudioTransformer",
        "whisper": "mmjax.models.whisper_encoder:WhisperEncoder",
        "series": "mmjax.models.modality_encoders:SeriesTransformer",
        "table": "mmjax.models.modality_encoders:TableTransformer",
        "features": "mmjax.models.modality_encoders:FeatureEncoder",
    },
    configs={
        name: f"mmjax.models.{room}config:{name.capitalize()}EncoderConfig"
        for room, names in (("image_", "resnet convnext"), ("fusion.", _OF_FUSION))
        for name in names.split()
    },
    fields="always",
)
_FUSIONS = {
    "pooled": "concat weighted gated attention",
    "tokens": "cross joint bottleneck",
    "kinds": "late hybrid",
    "alone": "alone",
}
# `model.fusion.kind`: flax modules that make one of several modalities, and the dataclasses of their fields.
fusions = Registry(
    "fusion",
    {
        name: f"mmjax.models.fusion.{module}:{name.capitalize()}"
        for module, names in _FUSIONS.items()
        for name in names.split()
    },
    configs={
        name: f"mmjax.models.fusion.config:{name.capitalize()}Config" for name in " ".join(_FUSIONS.values()).split()
    },
    fields="always",
)
# `optimizer.name`: update rules, see `training.update_rules`; fields that a plugin's has are in `optimizer.NAME`.
optimizers = Registry(
    "optimizer",
    {
        "adamw": "mmjax.training.update_rules:ADAMW",
        "lion": "mmjax.training.update_rules:LION",
        "adafactor": "mmjax.training.update_rules:ADAFACTOR",
        "muon": "mmjax.training.update_rules:MUON",
        "sgd": "mmjax.training.update_rules:SGD",
    },
)
# `objectives`: terms of the loss, see `tasks.objective`, added in this order; fields of a plugin's are in `loss.NAME`.
objectives = Registry(
    "objective",
    {
        "itc": "mmjax.tasks.batch_losses:SOFTMAX",
        "sigmoid": "mmjax.tasks.batch_losses:SIGMOID",
        "triplet": "mmjax.tasks.batch_losses:TRIPLET",
        "itm": "mmjax.tasks.batch_losses:MATCHING",
        "caption": "mmjax.tasks.per_example_losses:CAPTION",
        "mlm": "mmjax.tasks.per_example_losses:MASKED_WORDS",
        "mim": "mmjax.tasks.per_example_losses:MASKED_PATCHES",
        "vqa": "mmjax.tasks.per_example_losses:ANSWER",
        "classify": "mmjax.tasks.per_example_losses:CLASSIFY",
        "sync": "mmjax.tasks.synchronization:SYNCHRONIZATION",
        "separate": "mmjax.tasks.per_example_losses:SEPARATE",
    },
)
_EVALUATORS = "mmjax.evaluation.evaluators"
# `eval.tasks`, suites' `tasks`, see `evaluation.evaluation_task`; fields of a plugin's are `eval.NAME`, there `NAME`.
evaluations = Registry(
    "evaluation",
    {
        "zeroshot_classification": f"{_EVALUATORS}.contrastive:ZERO_SHOT_CLASSIFICATION",
        "zeroshot_retrieval": f"{_EVALUATORS}.contrastive:ZERO_SHOT_RETRIEVAL",
        "modality_retrieval": f"{_EVALUATORS}.modality_retrieval:MODALITY_RETRIEVAL",
        "image_captioning": f"{_EVALUATORS}.captioning:IMAGE_CAPTIONING",
        "video_captioning": f"{_EVALUATORS}.captioning:VIDEO_CAPTIONING",
        "audio_captioning": f"{_EVALUATORS}.captioning:AUDIO_CAPTIONING",
        "speech_recognition": f"{_EVALUATORS}.speech_recognition:SPEECH_RECOGNITION",
        "visual_question_answering": f"{_EVALUATORS}.question_answering:VISUAL_QUESTION_ANSWERING",
        "video_question_answering": f"{_EVALUATORS}.question_answering:VIDEO_QUESTION_ANSWERING",
        "audio_question_answering": f"{_EVALUATORS}.question_answering:AUDIO_QUESTION_ANSWERING",
        "image_text_matching": f"{_EVALUATORS}.image_text_matching:IMAGE_TEXT_MATCHING",
        "masked_modelling": f"{_EVALUATORS}.masked_modelling:MASKED_MODELLING",
        "synchronization": f"{_EVALUATORS}.synchronization:SYNCHRONIZATION",
        "multimodal_classification": f"{_EVALUATORS}.multimodal_classification:MULTIMODAL_CLASSIFICATION",
        "image_caption_selection": f"{_EVALUATORS}.caption_similarity:IMAGE_CAPTION_SELECTION",
        "clip_score": f"{_EVALUATORS}.caption_similarity:CLIP_SCORE",
        "source_separation": f"{_EVALUATORS}.source_separation:SOURCE_SEPARATION",
        "knn": f"{_EVALUATORS}.probe_tasks:KNN",
        "few_shot": f"{_EVALUATORS}.probe_tasks:FEW_SHOT",
        "linear_probe": f"{_EVALUATORS}.probe_tasks:LINEAR_PROBE",
    },
)
# `log.writers`, and what `log` switches on by other fields, see `training.metrics_log`.
log_writers = Registry(
    "log writer",
    {
        "jsonl": "mmjax.training.metrics_log:JSONLines",
        "tensorboard": "mmjax.training.tensorboard_writer:TensorBoard",
        "wandb": "mmjax.training.wandb_writer:WandB",
    },
    fields="never",
)

_ALL = (sources, tokenizers, models, encoders, fusions, objectives, optimizers, evaluations, log_writers)
REGISTRIES = {registry.kind: registry for registry in _ALL}

"""Every field of the config with its default."""

import ml_collections

from mmjax.config import overrides
from mmjax.models.variants import two_tower

ConfigDict = ml_collections.ConfigDict


def base_config(variant: str = "B/32") -> ConfigDict:
    """Returns every field a recipe may set, with its default, locked: a misspelt field is an error."""
    config = ConfigDict()
    config.name = "clip"  # of the run: report titles, W&B
    config.variant = variant  # label of the model's size in results
    config.seed = 0  # of initialisation, data order, crops, dropout
    config.steps = 10_000  # optimizer updates
    config.batch_size = 1024  # pairs per update over all devices
    config.microbatch = 1  # pieces the model runs in, one after the other; the loss always sees the whole batch
    config.model = two_tower.variant(variant)  # see mmjax/models/variants/two_tower.py
    config.model.init = "openai"  # whose rule fresh parameters are drawn by; see mmjax/models/initialisation.py
    # Weights: CLIP {itc: 1}, SigLIP {sigmoid: 1}, CoCa {itc: 1, caption: 2}, ALBEF {itc: 1, itm: 1, mlm: 1}.
    config.objectives = dict(
        itc=0.0,  # softmax contrast of images and texts
        sigmoid=0.0,  # SigLIP's
        triplet=0.0,  # hinge on the hardest negatives (VSE++)
        itm=0.0,  # image-text matching on hard negatives
        mlm=0.0,  # masked words, given the image
        mim=0.0,  # masked patches, given the text
        caption=0.0,  # each next token of the text, given the image
        vqa=0.0,  # the answer to a question, among a list
        classify=0.0,  # the class of an example of several modalities
    )

    config.init_from = ""  # workdir, or weights of OpenCLIP, Hugging Face or big_vision, that this run starts from
    config.init_paths = (".*",)  # path regexes of what is taken from there; the rest is new

    config.data = dict(
        train="",  # mixture: 'wds:DIR/{00000..01242}.tar@0.7+pairs:FILE.tsv@0.3'; all sources: docs/data.md
        eval="",  # evaluated one by one: 'shapes/test+digits/test'
        image_key="",  # field that holds the image: a column, or endings in a tar ('jpg;png'); '' finds it
        caption_keys="",  # fields that hold captions, e.g. 'json:caption@0.7+txt@0.3'; '' finds them
        # In both, '|' separates parts for each source of the mixture: 'txt|title'.
        order="global",  # 'global' permutes all examples; 'windowed' shards, then examples within `window` of them
        window=8,  # shards
        cache="",  # folder for indexes and remote shards; '' = the user's cache folder
        cache_gb=100.0,  # remote shards kept there
        retry_seconds=120.0,  # how long a failing bucket or server is asked again
        tokenizer="clip",  # 'clip', 'bytes', 'words:FILE', 'sentencepiece:FILE', 'json:FILE'
        context_length=0,  # tokens of a text; 0 = the model's
        # No work on padding where the outputs stay the same: 'auto' (not on CPU), 'on', 'off'. Texts of two towers are
        # packed, several a row; those of models that write or fuse are grouped by length.
        pack_texts="auto",
        packed_rows=0,  # rows a device and microbatch computes; 0 = as a sample of the captions needs
        length_groups="",  # rows x tokens of a device and microbatch: '8x77,24x33'; '' = as a sample of the texts needs
        texts="captions",  # what the model reads or writes: 'captions', 'questions' (classified), 'answers' (written)
        blind=False,  # show the model empty images: what can be known from the texts alone
        answers="",  # file with one answer a line, for 'questions'; '' = those of the training data itself
        positives="id",  # 'id': equal ids are positives of one another; 'diagonal': every pair is its own class
        mean_std="clip",  # 'clip', 'siglip' (0.5), 'imagenet'
        interpolation="bicubic",  # or 'bilinear'
        antialias=True,  # False: 'bilinear' from the four nearest pixels, as big_vision's `resize`
        resize="crop",  # evaluation: 'crop' (shortest side, centre crop) or 'squash'
        image_rule="mmjax",  # evaluation as 'open_clip', 'huggingface' or 'big_vision' have it: docs/interop.md
        train_resize="crop",  # training: 'crop' (RandomResizedCrop), 'squash' (the whole image), 'center' (its middle)
        crop_scale=(0.9, 1.0),  # train_resize='crop': share of the area that is kept
        crop_ratio=(3 / 4, 4 / 3),  # train_resize='crop': aspect ratio of what is kept
        flip=False,  # training: mirror half of the images
        color_jitter=(0.0, 0.0, 0.0, 0.0),  # training: brightness, contrast, saturation, hue, as torchvision has them
        color_jitter_prob=1.0,  # training: share of the images that are jittered
        grayscale=0.0,  # training: share of the images that lose their colours
        randaugment=(0, 9),  # training: RandAugment's operations an image (0 = off) and their magnitude
        randaugment_policy="torchvision",  # whose RandAugment; magnitudes are 0 to 30, of 'albef', 'big_vision' 0 to 10
        draft=True,  # training: let libjpeg decode large images at 1/2, 1/4 or 1/8, never below the crop's size
        resize_on="auto",  # training: where decoded images are cropped and resized, 'host' or 'device'; docs/data.md
        workers=0,  # processes that decode; 0 = threads of this one
        threads=0,  # in each of them, for storage that answers slowly; 0 = one, and one a core without workers
        prefetch=2,  # batches made ahead
        max_bad_fraction=0.01,  # stop when more of the examples, or of a set's shards, than this cannot be read
    )

    config.optimizer = dict(
        name="adamw",  # adamw, lion, adafactor, muon, sgd
        learning_rate=5e-4,  # peak
        b1=0.9,
        b2=0.98,
        eps=1e-6,
        weight_decay=0.2,  # decoupled, of what `decay` names
        # Path regexes, or 'matrices' (kernels and the token table), 'open_clip' (all of two axes or more, positions
        # and probes among them, but for biases and norms), 'big_vision' (kernels); several: what any of them names.
        decay=("matrices",),
        decay_scaled_by_lr=True,  # as in AdamW; False: by the schedule's share of the peak alone, as in big_vision
        b2_cap=0.999,  # adafactor: most of the second moment that a step keeps; 1 = no cap (the paper's)
        update_clip=0.0,  # adafactor: RMS that a matrix's update is cut to; 0 = off, as in big_vision (the paper's: 1)
        momentum_dtype="float32",  # of the first moment; 'bfloat16' halves it
        grad_clip=0.0,  # global norm; 0 = off
        freeze=(),  # path regexes, e.g. ('image/.*', 'image_head/.*') locks the image tower (LiT)
        multipliers=(),  # (path regex, factor) pairs on the learning rate, first match wins
        layer_decay=dict(image=1.0, text=1.0),  # factor per layer counted from the top
    )
    config.schedule = dict(
        name="cosine",  # cosine, constant, rsqrt, step
        warmup=2000,  # steps of linear warm-up
        from_zero=False,  # the first of them has rate 0, as in big_vision; False: 1 / warmup, as in OpenCLIP
        cooldown=0,  # last steps of constant and rsqrt, falling linearly to `final`
        timescale=10_000,  # rsqrt: steps after which the rate has fallen by sqrt(2)
        decay_rate=0.9,  # step: what the rate is multiplied by
        decay_every=0,  # step: updates after which it is, again and again
        final=0.0,  # share of the peak at the end of cosine or of a cool-down, and the least that step falls to
        final_of="peak",  # rsqrt: 'rate' makes `final` a share of what the rate would be without the cool-down
    )
    config.ema_decay = 0.0  # of a moving average of the parameters, which is then what is evaluated; 0 = off

    config.mesh = dict(
        data=-1,  # devices along each axis; -1 takes what is left
        fsdp=1,
        tensor=1,
        slices=0,  # groups of devices with slower links between them, crossed by `data` alone; 0 = the TPU slices
        sharding="fsdp+tensor",  # preset: replicated, fsdp, fsdp+tensor
        rules=(),  # (path regex, axes of the array's last dimensions), before the preset's
    )
    config.loss = dict(
        impl="dense",  # dense, gather, ring: the same value and gradients; see docs/scaling.md
        block_size=1024,  # gather, ring: rows and columns of the tiles of logits, of which one is alive at a time
        precision="highest",  # of its matrix products
        label_smoothing=0.0,  # caption, classify: share of the target spread over all tokens or classes
        contrastive_smoothing=0.0,  # itc, 'dense' only: share of the target spread over all rows (BLIP-2: 0.1)
        triplet_margin=0.2,
        triplet_negatives="hardest",  # 'hardest', 'semi-hard', 'sum'
        itm_negatives="global",  # drawn among the whole batch, or among a device's own rows: 'local'
        mlm_rate=0.15,  # share of a text's tokens that are masked
        mim_ratio=0.5,  # share of an image's patches that are masked
    )
    # Kernel: 'auto' takes cuDNN's on NVIDIA and mmjax's own on TPUs where they apply; 'cudnn', 'pallas' (TPU), 'xla'.
    config.attention = "auto"
    config.precision = "bfloat16"  # compute type of the towers: bfloat16 or float32; parameters stay float32

    config.checkpoint = dict(
        every=1000,  # steps; the last step is always saved
        keep=2,  # latest ones
        keep_best=0,  # and this many best ones by `best_metric`
        best_metric="",  # e.g. 'shapes/image_retrieval_recall@1'; larger is better
    )
    config.eval = dict(
        every=1000,  # steps; 0 = only at the end
        batch_size=256,  # rows encoded at a time over all devices, and rows of the held-out loss
        image_key="",  # as data.image_key, for data.eval
        caption_keys="",  # as data.caption_keys, for data.eval
        meteor=False,  # METEOR of written captions: needs pip install 'mmjax[metrics]' and Java
    )
    config.decoding = dict(
        method="greedy",  # how text is written in evaluation: 'greedy', 'beam', 'sample'
        max_tokens=0,  # at most; 0 = as many as a text has, or as there are positions after the longest question
        min_tokens=0,  # at least
        beams=4,
        length_penalty=1.0,  # beam: score = log-probability / length ** this
        temperature=1.0,  # sample
        top_k=0,  # sample: among so many tokens; 0 = all
        top_p=1.0,  # sample: among the likeliest that have this probability together
    )
    config.log = dict(
        every=20,  # steps between lines of metrics.jsonl
        tensorboard=True,
        wandb_project="",  # '' = off; needs the wandb package
        profile=(),  # (first, last) steps to trace into WORKDIR/profile
    )
    # The same bits on every run on the same devices: true, false, or 'auto' where that is free (CPU, TPU; not GPU).
    config.deterministic = "auto"
    config.compilation_cache = "auto"  # folder; 'auto' = the user's cache folder, off on CPU; '' = off
    config.xla_flags = ""  # added to XLA_FLAGS before the devices start, behind what mmjax sets
    accept_auto_or_bool(config)
    return config.lock()


def accept_auto_or_bool(config: ConfigDict, path: str = "") -> None:
    """Lets the fields of `overrides.AUTO_OR_BOOL` change between 'auto' and a bool, which a ConfigDict refuses."""
    for name, value in config.items():
        where = f"{path}{name}"
        if isinstance(value, ConfigDict):
            accept_auto_or_bool(value, f"{where}.")
        elif where.endswith(overrides.AUTO_OR_BOOL):
            del config[name]
            config[name] = ml_collections.FieldReference(value, field_type=object)

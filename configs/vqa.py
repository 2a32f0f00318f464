"""Visual question answering as classification among a list of answers, as ViLT does (ALBEF has a decoder for them).

Command:
  python train.py --config=configs/albef.py --workdir=runs/albef
  python train.py --config=configs/vqa.py --workdir=runs/vqa --config.init_from=runs/albef
  python train.py --config=configs/vqa.py:blind=True --workdir=runs/vqa-blind --config.init_from=runs/albef
  python train.py --config=configs/vqa.py:variant=vilt-B/32,tokenizer=json:bert-base-uncased/tokenizer.json \
      --workdir=runs/vqa --config.init_from=runs/vilt \
      --config.data.train=vqa:v2_OpenEnded_mscoco_train2014_questions.json
Recipe: binary cross-entropy against soft scores, summed over the answers. On questions about drawn scenes (21 answers),
  the model that configs/albef.py trains on captions, with a new head; blind=True shows it empty images: what the
  questions alone tell. variant=small-vilt is a single stream, which starts from configs/vilt.py's.
Size for VQA v2: variant=vilt-B/32 with 3,129 answers, as ViLT is fine-tuned: 10 epochs of 443,757 questions in batches
  of 256, AdamW (0.9, 0.98, 1e-8), 1e-4 and ten times that for the new head, falling linearly after a tenth of the
  steps, weight decay 0.01, dropout 0.1.
Hardware and time: TIME
Expected: EXPECTED
"""

from mmjax.config import base_config, parse_arg
from mmjax.recipes import on_scenes


def get_config(arg: str = ""):
    args = parse_arg(  # steps=0, answers=0: the recipe's own
        arg,
        variant="small-albef",
        steps=0,
        blind=False,
        answers=0,
        tokenizer="json:bert-base-uncased/tokenizer.json",
    )
    config = base_config(args.variant)
    config.name = "vqa, blind" if args.blind else "vqa"
    config.objectives.vqa = 1.0
    config.model.match = False
    config.model.mlm = False
    config.data.texts = "questions"
    config.data.blind = args.blind
    config.init_paths = ("(image/|text/|fusion/|modality_embedding|pooler/).*",)  # all but heads
    if args.variant.startswith("small"):
        config.model.answers = args.answers or 21
        on_scenes(config, steps=args.steps or 300, data="questions", scan=True)
        return config
    config.model.answers = args.answers or 3129
    config.batch_size = 256
    config.steps = args.steps or 10 * 443_757 // 256
    config.model.image.dropout = config.model.text.dropout = 0.1
    config.optimizer.learning_rate = 1e-4
    config.optimizer.b2 = 0.98
    config.optimizer.eps = 1e-8
    config.optimizer.weight_decay = 0.01
    config.optimizer.multipliers = (("answer_head/.*", 10.0),)
    config.schedule.name = "constant"
    config.schedule.warmup = config.steps // 10
    config.schedule.cooldown = config.steps - config.schedule.warmup
    config.data.tokenizer = args.tokenizer
    config.data.context_length = 40
    config.data.mean_std = "siglip"
    config.data.resize = "squash"
    config.data.crop_scale = (1.0, 1.0)  # the whole image
    config.data.crop_ratio = (0.5, 2.0)
    config.data.workers = 8
    return config

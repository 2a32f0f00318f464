"""Visual question answering as classification among a list of answers (ViLT's and ALBEF's way).

Command:
  python train.py --config=configs/albef.py --workdir=runs/albef
  python train.py --config=configs/vqa.py --workdir=runs/vqa --config.init_from=runs/albef
  python train.py --config=configs/vqa.py:blind=True --workdir=runs/vqa-blind --config.init_from=runs/albef
  python train.py --config=configs/vqa.py:variant=vilt-B/32 --workdir=runs/vqa --config.data.train=vqa:questions.json
Recipe: binary cross-entropy against soft scores, summed over the answers. On questions about drawn scenes (21 answers),
  the model that configs/albef.py trains on captions, with a new head; blind=True shows it empty images: what the
  questions alone tell. variant=small-vilt is a single stream. vilt-B/32 with 3,129 answers is for VQA v2.
Hardware and time: TIME
Expected: EXPECTED
"""

from mmjax.config import base_config, parse_arg
from mmjax.recipes import on_scenes


def get_config(arg: str = ""):
    args = parse_arg(arg, variant="small-albef", steps=300, blind=False, answers=0)
    config = base_config(args.variant)
    config.name = "vqa, blind" if args.blind else "vqa"
    config.objectives.vqa = 1.0
    config.model.match = False
    config.model.mlm = False
    config.data.texts = "questions"
    config.data.blind = args.blind
    config.init_paths = ("(image/|text/|fusion/|modality_embedding).*",)  # all but heads
    if args.variant.startswith("small"):
        config.model.answers = args.answers or 21
        on_scenes(config, steps=args.steps, data="questions", scan=True)
        return config
    config.steps = args.steps
    config.model.answers = args.answers or 3129
    config.batch_size = 256
    config.optimizer.learning_rate = 1e-4
    config.optimizer.weight_decay = 0.01
    config.optimizer.multipliers = (("answer_head/.*", 10.0),)
    config.data.tokenizer = "json:tokenizer.json"
    config.data.workers = 8
    return config

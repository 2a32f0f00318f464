"""Visual question answering: the answer written after the question, or chosen from a list as ViLT does.

Command:
  python train.py --config=configs/captioner.py --workdir=runs/captioner
  python train.py --config=configs/vqa.py --workdir=runs/vqa --config.init_from=runs/captioner
  python train.py --config=configs/vqa.py:blind=True --workdir=runs/vqa-blind --config.init_from=runs/captioner
  python train.py --config=configs/vqa.py:variant=vilt-B/32,tokenizer=json:bert-base-uncased/tokenizer.json \
      --workdir=runs/vqa --config.init_from=runs/vilt \
      --config.data.train=vqa:v2_OpenEnded_mscoco_train2014_questions.json
Recipe: on questions about drawn scenes, the captioner that configs/captioner.py trains learns to go on from a question
  with its answer, the only tokens that are predicted. blind=True shows it empty images: what the questions alone tell.
  variant=small-blip-vqa is BLIP's way (arXiv:2201.12086): one BERT reads the question with the image, another looks at
  what the first gives and writes the answer; from scratch, and not measured.
  variant=small-albef and small-vilt, from configs/albef.py's and configs/vilt.py's models, choose among 21 answers by
  binary cross-entropy against soft scores, summed over the answers; they learn far less in the same time.
  tiny-captioner, tiny-blip-vqa, tiny-albef and tiny-vilt are smaller still, for a trial.
Size for VQA v2: variant=vilt-B/32 with 3,129 answers, as ViLT is fine-tuned: 10 epochs of 443,757 questions in batches
  of 256, AdamW (0.9, 0.98, 1e-8), 1e-4 and ten times that for the new head, falling linearly after a tenth of the
  steps, weight decay 0.01, dropout 0.1. `init_from` is a run of configs/vilt.py; the head alone is new.
Hardware and time: two cores of a shared 2.5 GHz Xeon, 4 minutes of training at 280 questions/s, after the captioner's
  4. vilt-B/32 has not been run.
Expected: 90.6 % VQA accuracy on 2,000 held-out questions (yes/no 79.5 %, number 90.8 %, other 95.5 %);
  with blind=True,steps=150 35.4 %, which is what the most frequent answer to each wording gives.
"""

from mmjax.config import base_config, parse_arg
from mmjax.config.toy_presets import apply_toy_scene_recipe, refuse_unused
from mmjax.errors import validate_choice

# On drawn scenes: those that write an answer, and those that choose one.
WRITERS = ("small-captioner", "small-blip-vqa", "tiny-captioner", "tiny-blip-vqa")
CHOOSERS = ("small-albef", "small-vilt", "tiny-albef", "tiny-vilt")
PUBLISHED = ("vilt-B/32",)


def get_config(arg: str = ""):
    # steps=0, answers=0, tokenizer='': the recipe's own.
    args = parse_arg(arg, variant="small-captioner", steps=0, blind=False, answers=0, tokenizer="")
    validate_choice("variant", args.variant, WRITERS + CHOOSERS + PUBLISHED)
    config = base_config(args.variant)
    config.name = "vqa, blind" if args.blind else "vqa"
    config.data.blind = args.blind
    if args.variant in WRITERS:
        refuse_unused(args, f"variant={args.variant}", "answers", "tokenizer")
        config.objectives.caption = 1.0
        config.data.texts = "answers"
        apply_toy_scene_recipe(config, steps=args.steps or 550, data="questions")
        return config
    config.objectives.vqa = 1.0
    config.model.match = False
    config.model.mlm = False
    config.data.texts = "questions"
    config.init_paths = ("(image/|text/|fusion/|modality_embedding|pooler/).*",)  # all but heads
    if args.variant in CHOOSERS:
        refuse_unused(args, f"variant={args.variant}", "tokenizer")
        config.model.answers = args.answers or 21
        apply_toy_scene_recipe(config, steps=args.steps or 300, data="questions", scan=True)
        return config
    config.model.answers = args.answers or 3129
    config.model.init = "vilt"
    config.batch_size = 256
    config.steps = args.steps or 10 * 443_757 // 256
    config.model.image.dropout = config.model.text.dropout = 0.1
    config.optimizer.learning_rate = 1e-4
    config.optimizer.b2 = 0.98
    config.optimizer.eps = 1e-8
    config.optimizer.weight_decay = 0.01
    config.optimizer.decay = ("open_clip", "image/class_token")  # all but biases and norms
    config.optimizer.multipliers = (("answer_head/.*", 10.0),)
    config.schedule.name = "constant"
    config.schedule.warmup = config.steps // 10
    config.schedule.from_zero = True
    config.schedule.cooldown = config.steps - config.schedule.warmup
    config.data.tokenizer = args.tokenizer or "json:bert-base-uncased/tokenizer.json"
    config.data.context_length = 40
    config.data.mean_std = "siglip"
    config.data.resize = "squash"
    config.data.train_resize = "squash"
    config.data.workers = 8
    return config

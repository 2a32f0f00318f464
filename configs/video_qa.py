"""Questions about videos: the answer written after the question, by the model that described videos before.

Command:
  python train.py --config=configs/video_captioner.py --workdir=runs/video-captioner
  python train.py --config=configs/video_qa.py --workdir=runs/video-qa --config.init_from=runs/video-captioner
  python train.py --config=configs/video_qa.py:blind=True --workdir=runs/video-qa-blind \
      --config.init_from=runs/video-captioner
  python train.py --config=configs/video_qa.py:variant=git-B/16,tokenizer=json:bert-base-uncased/tokenizer.json \
      --workdir=runs/git-qa --config.init_from=runs/git \
      --config.data.train=vqa:msrvtt-qa/train_qa.json,images=msrvtt/videos/video{video_id}.mp4
Recipe: on `video_questions`, which ask about the scenes of `moving`, the captioner of configs/video_captioner.py learns
  to go on from a question with its answer, the only tokens that are predicted. blind=True shows it empty videos: what
  the questions alone tell.
Size for data of your own: variant=git-B/16 is GIT-B, as configs/video_captioner.py has it: 10 epochs of MSRVTT-QA's
  158,581 questions in batches of 512.
Hardware and time: two cores of a shared 2.5 GHz Xeon, 5.5 minutes of processor time at the captioner's rate, after its
  3.6. git-B/16 has not been run.
Expected: 92.9 % VQA accuracy on 1,000 held-out questions (yes/no 93.1 %, number 78.5 %, other 94.0 %); 84.7 % after 500
  steps. Without the videos 32.0 %; the most frequent answer to each wording is right for 33.1 %.
"""

from mmjax.config import parse_arg
from mmjax.config.recipe import load_recipe


def get_config(arg: str = ""):
    # variant, video and tokenizer are those of configs/video_captioner.py; steps=0: the recipe's own.
    args = parse_arg(arg, variant="small", video="", steps=0, blind=False, tokenizer="")
    steps = args.steps or (750 if args.variant == "small" else 10 * 158_581 // 512)
    config = load_recipe(
        f"video_captioner:variant={args.variant},video={args.video},steps={steps},tokenizer={args.tokenizer}"
    )
    config.name = "video questions, blind" if args.blind else "video questions"
    config.data.texts = "answers"
    config.data.blind = args.blind
    config.init_paths = (".*",)  # all of the captioner
    if args.variant == "small":
        config.data.train, config.data.eval = "video_questions", "video_questions/test"
    return config

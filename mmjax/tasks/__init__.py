"""From a config to a task: which model, which objectives with which weights, which data they need."""

from mmjax.tasks.checking import check_model
from mmjax.tasks.flops import model_flops
from mmjax.tasks.image_fields import check_images, make_image_spec
from mmjax.tasks.inputs import (
    DataFacts,
    batch_shapes,
    has_text,
    make_tokenizer,
    make_train_examples,
    open_mixture,
    read_facts,
    text_length,
)
from mmjax.tasks.packing import packing_obstacle
from mmjax.tasks.resizing import choose_frame
from mmjax.tasks.task import DTYPES, Task

__all__ = [
    "DTYPES",
    "DataFacts",
    "Task",
    "batch_shapes",
    "check_images",
    "check_model",
    "choose_frame",
    "has_text",
    "make_image_spec",
    "make_tokenizer",
    "make_train_examples",
    "model_flops",
    "open_mixture",
    "packing_obstacle",
    "read_facts",
    "text_length",
]

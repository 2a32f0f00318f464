"""From a config to a task: which model, which objectives with which weights, which data they need."""

from mmjax.tasks.config_queries import has_text, model_flops, text_length
from mmjax.tasks.image_fields import check_images, choose_frame, make_image_spec, note_on_crop
from mmjax.tasks.model_outputs import DTYPES
from mmjax.tasks.packing import LAYOUTS, Packer, lay_out, layout_shapes, make_packer, packing_obstacle
from mmjax.tasks.preprocessing import (
    DatasetMetadata,
    batch_shapes,
    make_tokenizer,
    make_train_examples,
    open_mixture,
    read_dataset_metadata,
    shapes_of_data,
    source_options,
)
from mmjax.tasks.table_fields import check_table, read_table_columns
from mmjax.tasks.task import Task
from mmjax.tasks.validate_model import check_model, check_sizes

__all__ = [
    "DTYPES",
    "LAYOUTS",
    "DatasetMetadata",
    "Packer",
    "Task",
    "batch_shapes",
    "check_images",
    "check_model",
    "check_sizes",
    "check_table",
    "choose_frame",
    "has_text",
    "lay_out",
    "layout_shapes",
    "make_image_spec",
    "make_packer",
    "make_tokenizer",
    "make_train_examples",
    "model_flops",
    "note_on_crop",
    "open_mixture",
    "packing_obstacle",
    "read_dataset_metadata",
    "read_table_columns",
    "shapes_of_data",
    "source_options",
    "text_length",
]

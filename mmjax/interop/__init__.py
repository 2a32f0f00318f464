"""Weights of OpenCLIP, OpenAI, Hugging Face and big_vision: one table of names per format, read in both directions.

`foreign_checkpoint.open_checkpoint` opens a checkpoint of another library, `export.write` writes one. Nothing here
executes anything of a file: pickles are read by `torch_file`, which can only describe tensors.
"""

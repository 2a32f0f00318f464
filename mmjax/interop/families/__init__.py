"""Whole models of Hugging Face's transformers beyond CLIP and SigLIP: one file a family."""

"""Sources, decoding and augmentation, tokenizers and the input pipeline. No model is imported here."""

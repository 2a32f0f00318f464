"""Texts: normalisation, tokenizers, vocabularies."""

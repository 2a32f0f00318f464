"""Convolutional towers of images: OpenAI's modified ResNets and ConvNeXt, their fields and their head."""

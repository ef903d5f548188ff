"""Text: tokenizers, corpora, labelled data sets, and the batches that models are trained on.

files         UTF-8 read in pieces and checked; files written whole or not at all
tokenizers    characters, words, byte-level BPE behind one interface
corpus        token files, memory-mapped, for language models
datasets      labelled texts for classification, and their splits
batching      windows of running text, buckets of similar length
kjv           the shipped King James Bible
"""

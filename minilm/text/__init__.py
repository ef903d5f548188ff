"""Text: tokenizers, corpora, labelled data sets, and the batches that models are trained on.

files         UTF-8 read in pieces and checked
tokenizers/   characters, words, byte-level BPE behind one interface: one kind per file
corpus        token files, memory-mapped, for language models
datasets/     labelled texts for classification, and their splits: one format or data set per file
batching      windows of running text, buckets of similar length
kjv           the shipped King James Bible

Public are the names without a leading underscore of these modules, and what the two packages import.
"""

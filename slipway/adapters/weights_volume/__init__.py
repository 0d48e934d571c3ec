"""The program that puts a model version's files on a volume, checks them, and removes old ones.

It runs as an init container of every model pod with `weights: pvc`, and alone at the end of a
release. It is told a digest and trusts nothing else: not the object store, not the volume.
"""

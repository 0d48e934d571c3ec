"""Whether a release could be carried out at all, decided before anything is written."""

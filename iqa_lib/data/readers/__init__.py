"""Readers: the label files of published datasets, exactly as their authors lay them out, into one kind of table.

A reader takes the dataset's folder and returns a row per image. Columns: ``image`` (path relative to the folder),
``score`` (on the published scale) and, where published, ``std`` (on that scale), ``split``, ``reference``,
``distortion``, ``severity``, and votes ``c1`` … ``c5`` with their sum ``c_total``. The index says where each row
comes from ("dmos.csv, line 7"), so that every complaint can. Readers look at label files and folder listings
and open no image; `catalog` checks what they return. All raise DataError for a label file they cannot read.
"""

"""What a server keeps: responses, files and batches.

    Kept ─┬─ responses   in memory, and in the folder if the server was given one
          ├─ files       in the folder
          └─ batches     in the folder; `runner` works them off

One server has a folder at a time. Names of files are made of ids that the server drew itself; those of requests are
only looked up among them. Whose key made something is the only one who sees it.
"""

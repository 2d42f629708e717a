"""Key-values and blobs, kept beside the commit log under keys, with a time to live."""

"""Models that write text as TFLite files: signatures over one set of weights and a cache of fixed size."""

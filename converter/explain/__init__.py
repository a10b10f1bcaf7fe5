"""Where a package first departs from its source: the step, then the layer, and the smallest setting that repairs it."""

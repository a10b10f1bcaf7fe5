"""What distillation, movement and gradual pruning train with."""

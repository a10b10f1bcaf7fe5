"""What an app needs beside the model file: tokenizer tables, samples, and what a device measured."""

"""What can be made again, kept between runs: stores of files by key, in a folder or behind a URL."""

"""What can be made again, kept between runs."""

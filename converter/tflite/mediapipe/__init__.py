"""The variant that MediaPipe Tasks opens."""

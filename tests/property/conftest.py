"""No deadline: a first call imports scipy or torch, and the machines that run this are slow or shared. No files left."""

from hypothesis import settings

settings.register_profile("project", deadline=None, database=None)
settings.load_profile("project")

"""No deadline: a first call imports scipy or torch, and machines are slow or shared. No database of old failures."""

from hypothesis import settings

settings.register_profile("project", deadline=None, database=None)
settings.load_profile("project")

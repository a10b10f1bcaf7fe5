"""Stages after which a model works more on some texts than on others."""

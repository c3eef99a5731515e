"""Plugins for capture tools, found by entry points like any third party's."""

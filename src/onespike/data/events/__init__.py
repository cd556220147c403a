"""Recordings of event cameras and cochleas, which become frames: data sets by name, and files."""

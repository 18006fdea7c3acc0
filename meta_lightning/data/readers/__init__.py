"""Readers turn files into tables of labelled examples."""

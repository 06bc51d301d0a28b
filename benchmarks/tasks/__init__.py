"""Seeded data to train on."""

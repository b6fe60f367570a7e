"""Signatures of other tools' formats: made by our keys, verified by whom we trust, kept beside what they sign."""

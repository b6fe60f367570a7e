"""Who pays: price tables, what calls cost, what they would have cost elsewhere.

files        a price table as people write it, and as it is signed
vendors      vendors' list prices from the package `genai-prices`
tables       sign, add, list and check the tables of a store
projection   rows of what each call used and cost, from entries and the vault
report       sums by department, project, model, day, and what they do not cover
spending     what a principal has spent so far
what_if      the same calls by other prices; an API against an engine of one's own
"""

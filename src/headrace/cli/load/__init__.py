"""Load on a server that speaks OpenAI's API, and what it showed.

client (sends and receives) ← jobs (what is sent when) → figures (rates, latencies) → picture, comparison
"""

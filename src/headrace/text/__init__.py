"""Everything between text and token ids: tokenizer, detokenizer, stop strings, chat templates."""

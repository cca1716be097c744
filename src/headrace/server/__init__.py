"""HTTP: the engine on one port, in the dialects that clients speak.

    request → app → answer ─ routing → reading (the body) → dialects/<name>: parse → Call | Later | Inquiry | Answer
                      ├─ Call:    generate (submit, merge, disconnect) → the call's renderer → sse
                      ├─ Later:   the same, after its answer (jobs)
                      ├─ Inquiry: one call of the engine → its render
                      └─ Answer:  what is said at once
                    errors → the dialect's render_failure
                    record, what is known of it → metrics, request_log, traces
    stored/batch_runner → batch_door → unattended: parse, generate and render as above, without HTTP

A dialect knows neither Starlette nor the engine's ways: it parses requests and renders chunks (dialects/base.py).
Adding one is a file under dialects/ and its name in `app.create_app`. `own` has the paths that are nobody's dialect,
`page` the page at `/`. `stored` has what a server keeps: responses, files, batches.
"""

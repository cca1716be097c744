"""HTTP: the engine on one port, in the dialects that clients speak.

    request → app (routes) → body (limit, content type) → dialects/<name>.parse → generate (submit, merge, disconnect)
            ← app          ← errors, sse               ← dialects/<name>.render ←

`app` knows Starlette and the dialects; a dialect knows neither HTTP nor Starlette: it parses bytes into a `Call` and
renders chunks into bytes (dialects/base.py). Adding one is a file under dialects/ and a row in `app.DIALECTS`.
"""

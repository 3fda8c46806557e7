"""Report evaluations: one HTML page, Markdown, or JSON in lm-eval's form.

runs ──▶ content.Report ──▶ sections (tables) ──▶ page (HTML) | markdown
                       └──▶ lm_eval (JSON)
"""

"""Strings that break a page which trusts them. Where one is taken for code, `window.caught` comes to exist."""

CORPUS = (
    "<script>window.caught=1</script>",
    '"><img src=x onerror="window.caught=2">',
    "'><svg onload='window.caught=3'>",
    "</title><script>window.caught=4</script>",
    "</style><script>window.caught=5</script>",
    "--><script>window.caught=6</script>",
    "]]><script>window.caught=7</script>",
    "</code></pre><iframe srcdoc='<script>parent.caught=8</script>'></iframe>",
    '" onmouseover="window.caught=9" autofocus onfocus="window.caught=10" x="',
    '<a href="javascript:window.caught=11">click</a>',
    "<base href='https://attacker.invalid/'>",
    '<meta http-equiv="refresh" content="0;url=https://attacker.invalid/">',
    "<link rel=stylesheet href=https://attacker.invalid/x.css>",
    "</text></svg><math><mtext><script>window.caught=12</script></mtext></math>",
    ";background:url(https://attacker.invalid/x.png)",
    "{{ 7 * 7 }}{% raw %}{# gone #}",
    "${7*7} $\\frac{1}{0}$ $x_",
    "&lt;b&gt;&amp;amp;",
    "\u202egnp.exe\u2028\x1b[31m",
)
ALL = " ".join(CORPUS)

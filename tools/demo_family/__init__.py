"""Makes, scores and documents the demo family under assets/demo. Cria itself never imports it."""

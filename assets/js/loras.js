// The strengths of LoRAs: a switch, a number and a slider that say the same. What they say goes to the server with the
// next message as {id: strength}. Knows nothing about names or models; no requests.
(() => {
  const parts = (row) => ['checkbox', 'number', 'range'].map((kind) => row.querySelector(`input[type=${kind}]`));

  /** Let the other two of a row follow the one that was touched. */
  const follow = (touched) => {
    const [on, number, slider] = parts(touched.closest('[data-lora]'));
    if (touched === on) number.value = on.checked ? on.dataset.on : '0';
    if (touched === slider) number.value = slider.value;
    if (touched !== slider) slider.value = number.value;
    if (touched !== on) on.checked = Number(number.value) !== 0;
    if (Number(number.value) > 0) on.dataset.on = number.value;
  };

  const read = (value) => {
    try {
      return JSON.parse(value);
    } catch {
      return {};
    }
  };

  window.cria = Object.assign(window.cria ?? {}, {
    /** What there is to draw; the server has escaped it. */
    rows: (value) => read(value).rows ?? '',

    /** `keep`: what was typed outlasts a redrawing, by row. */
    strengths(element, props, watch, keep) {
      const typed = new Map();
      const rows = () => [...element.querySelectorAll('[data-lora]')];
      const tell = () => {
        const said = Object.fromEntries(rows().map((row) => [row.dataset.lora, parts(row)[1].value]));
        props.value = JSON.stringify({...read(props.value), said});
      };
      element.addEventListener('input', (event) => {
        const row = event.target.closest('[data-lora]');
        if (!row) return;
        follow(event.target);
        typed.set(row.dataset.lora, parts(row)[1].value);
        tell();
      });
      // Rows are redrawn in place: an input that somebody has touched would go on saying what it said of another row.
      watch('value', () => {
        if (!keep) typed.clear();
        for (const row of rows()) {
          const [on, number, slider] = parts(row);
          on.checked = on.hasAttribute('checked');
          for (const one of [number, slider]) one.value = one.getAttribute('value');
          if (!typed.has(row.dataset.lora)) continue;
          number.value = typed.get(row.dataset.lora);
          follow(number);
        }
        if (keep) tell();
      });
    },
  });
})();

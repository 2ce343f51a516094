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

    /** What was typed outlasts a redrawing: until the server draws the same because it was sent, with `keep` for good. */
    strengths(element, props, watch, keep) {
      const typed = new Map(Object.entries(read(props.value).said ?? {})); // said before the tab was left, for example
      const rows = () => [...element.querySelectorAll('[data-lora]')];
      const tell = () => {
        const said = Object.fromEntries(rows().map((row) => [row.dataset.lora, parts(row)[1].value]));
        props.value = JSON.stringify({...read(props.value), said});
      };
      /** Rows are redrawn in place: an input that was touched would go on saying what it said of another row. */
      const show = (row) => {
        const number = parts(row)[1];
        const drawn = number.getAttribute('value');
        const own = typed.get(row.dataset.lora) ?? drawn;
        if (!keep && Number(own) === Number(drawn)) typed.delete(row.dataset.lora);
        if (number.value !== own) number.value = own;
        follow(number);
      };
      const redrawn = () => {
        const there = new Set(rows().map((row) => row.dataset.lora));
        if (!keep) [...typed.keys()].filter((one) => !there.has(one)).forEach((one) => typed.delete(one));
        rows().forEach(show);
      };
      element.addEventListener('input', (event) => {
        const row = event.target.closest('[data-lora]');
        if (!row) return;
        follow(event.target);
        typed.set(row.dataset.lora, parts(row)[1].value);
        tell();
      });
      watch('value', () => {
        redrawn();
        if (keep || typed.size) tell();
      });
      redrawn();
    },
  });
})();

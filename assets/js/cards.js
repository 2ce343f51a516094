// What cards can do in the browser: report their buttons, keep what a person unfolded or picked while they are redrawn,
// and sift the gallery as somebody types. Knows nothing about what a button means; no requests.
(() => {
  const unfolded = new Set();
  const picked = new Map(); // family -> recipe
  const filters = 'cria-filters';
  const every = 'cria-every';
  const first = 12; // families of a gallery that nobody has searched or unfolded

  /** What a person typed or ticked in the form around a button. */
  const fields = (pressed) => {
    const form = pressed.closest('[data-form]');
    const given = {};
    for (const one of form?.querySelectorAll('[data-field]') ?? []) {
      given[one.dataset.field] = one.type === 'checkbox' ? one.checked : one.value;
    }
    return given;
  };

  const show = (one, wanted) => { if (one.hidden === wanted) one.hidden = !wanted; };

  /** Show one size of a family: its chip pressed, its panel open. */
  const choose = (family, recipe) => {
    for (const chip of family.querySelectorAll('[data-pick]')) {
      const on = String(chip.dataset.pick === recipe);
      if (chip.getAttribute('aria-pressed') !== on) chip.setAttribute('aria-pressed', on);
    }
    for (const panel of family.querySelectorAll('[data-recipe]')) show(panel, panel.dataset.recipe === recipe);
  };

  const wanted = () => {
    const asked = {};
    for (const one of document.querySelectorAll('#filters [data-filter]')) {
      asked[one.dataset.filter] = one.type === 'checkbox' ? one.checked : one.value.trim().toLowerCase();
    }
    return asked;
  };

  const fits = (panel, {search, here, language, size, open}) => {
    const {words, fit, languages, millions, gated} = panel.dataset;
    const [least, most] = (size || '0-').split('-').map(Number);
    return (!search || search.split(/\s+/).every((word) => words.includes(word)))
      && (!here || ['well', 'tight'].includes(fit))
      && (!language || languages.split(' ').includes(language))
      && (!size || (Number(millions) >= least && (!most || Number(millions) < most)))
      && (!open || gated !== 'yes');
  };

  /** Hide what the filters leave out; say how much is left. */
  const sift = () => {
    const gallery = document.querySelector('#gallery .families');
    if (!gallery) return;
    const asked = wanted();
    const whole = sessionStorage.getItem(every) !== null || Object.values(asked).some(Boolean);
    let there = 0;
    let left = 0;
    let all = 0;
    for (const family of gallery.querySelectorAll('.family')) {
      const panels = [...family.querySelectorAll('[data-recipe]')];
      const good = panels.filter((panel) => fits(panel, asked)).map((panel) => panel.dataset.recipe);
      all += panels.length;
      left += good.length;
      for (const chip of family.querySelectorAll('[data-pick]')) show(chip, good.includes(chip.dataset.pick));
      const mine = [picked.get(family.dataset.family), family.dataset.first];
      choose(family, mine.find((one) => good.includes(one)) ?? good[0]);
      there += good.length > 0;
      show(family, good.length > 0 && (whole || there <= first));
    }
    show(document.querySelector('#gallery .more'), !whole && there > first);
    show(document.querySelector('#gallery .nothing'), left === 0);
    const said = document.querySelector('#filters output');
    const text = said?.dataset.count.replace('{left}', left).replace('{all}', all);
    if (said && said.textContent !== text) said.textContent = text;
  };

  const clear = () => {
    for (const one of document.querySelectorAll('#filters [data-filter]')) {
      if (one.type === 'checkbox') one.checked = false;
      else one.value = '';
    }
    sessionStorage.removeItem(filters);
    sift();
    document.querySelector('#filters [data-filter]').focus();
  };

  /** Show the families that wait behind the button; the keyboard goes on with the first of them. */
  const unfoldAll = () => {
    const fresh = document.querySelector('#gallery .family[hidden]');
    sessionStorage.setItem(every, 'yes');
    sift();
    fresh?.querySelector('button:not([hidden])')?.focus({preventScroll: true});
  };

  const redrawn = (element) => {
    for (const one of element.querySelectorAll('details[data-keep]')) {
      if (one.open !== unfolded.has(one.dataset.keep)) one.open = !one.open;
    }
    if (element.querySelector('.families')) sift();
  };

  const pickSize = (chip) => {
    const family = chip.closest('.family');
    picked.set(family.dataset.family, chip.dataset.pick);
    choose(family, chip.dataset.pick);
  };

  const report = (pressed, trigger) => {
    const {do: act, name, confirm: ask} = pressed.dataset;
    if (ask && !window.confirm(ask)) return;
    document.querySelector('[data-pressed]')?.removeAttribute('data-pressed');
    pressed.dataset.pressed = '';
    if (act === 'mend') unfolded.add('source-0').add('source-1').add('source-2'); // where a part can be taken from
    window.cria.stage = document.querySelector('#path ol')?.dataset.stage;
    trigger('click', {act, name, fields: fields(pressed)});
  };

  window.cria = Object.assign(window.cria ?? {}, {
    /** One listener per card, because cards are redrawn in place. */
    card(element, trigger) {
      new MutationObserver(() => redrawn(element)).observe(element, {
        subtree: true, childList: true, attributes: true, attributeFilter: ['open', 'hidden', 'aria-pressed'],
      });
      element.addEventListener('click', (event) => {
        const fold = event.target.closest('details[data-keep] > summary');
        if (fold) {
          const {keep} = fold.parentElement.dataset;
          if (!unfolded.delete(keep)) unfolded.add(keep);
        }
        const chip = event.target.closest('[data-pick]');
        if (chip) pickSize(chip);
        if (event.target.closest('[data-clear]')) clear();
        if (event.target.closest('[data-more]')) unfoldAll();
        const pressed = event.target.closest('button[data-do]');
        if (!pressed || !element.contains(pressed) || event.detail > 1) return; // the second half of a double click
        report(pressed, trigger);
      });
      element.addEventListener('keydown', (event) => {
        if (event.key !== 'Enter' || !event.target.matches('input[data-field]:not([type=checkbox])')) return;
        event.target.closest('[data-form]')?.querySelector('button[data-enter]')?.click();
      });
      redrawn(element);
    },

    /** The search box and its companions; remembered while the tab is open. */
    filters(element) {
      const recall = () => {
        const kept = JSON.parse(sessionStorage.getItem(filters) ?? '{}');
        for (const one of element.querySelectorAll('[data-filter]')) {
          const value = kept[one.dataset.filter];
          if (value === undefined) continue;
          if (one.type === 'checkbox') one.checked = value;
          else one.value = value;
        }
        sift();
      };
      element.addEventListener('input', () => {
        sessionStorage.setItem(filters, JSON.stringify(wanted()));
        sift();
      });
      new MutationObserver(recall).observe(element, {childList: true, subtree: true});
      recall();
    },

    /** After a press was answered: the button rests, and a new station comes under eyes and keyboard. */
    answered() {
      document.querySelector('[data-pressed]')?.removeAttribute('data-pressed');
      const path = document.querySelector('#path ol');
      if (!path || path.dataset.stage === window.cria.stage) return;
      path.tabIndex = -1;
      path.focus({preventScroll: true});
      path.scrollIntoView({block: 'start'});
    },
  });

  // A word that explains itself on hover or focus: Escape puts the explanation away.
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Escape' && document.activeElement?.matches('.term')) document.activeElement.blur();
  });
})();

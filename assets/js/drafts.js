// What a person has typed and not sent survives a change of language, which draws the page anew: it is put aside in this
// tab's own storage for the length of the reload. Passwords and tokens are not.
(() => {
  const store = 'cria-drafts';
  const slow = 1500; // ms that a busy browser may take to unfold something
  const typed = new Map(); // key -> value, since the page was opened

  const isText = (one) => one.matches('textarea, input:not([type]), input[type=text], input[type=number], input[type=search]')
    && !one.matches('[role=combobox], [role=listbox], [data-filter]');

  const key = (one) => [one.closest('[id]')?.id ?? '', one.dataset.field ?? ''].join(' ');

  const find = (wanted) => [...document.querySelectorAll('textarea, input')]
    .find((one) => isText(one) && key(one) === wanted);

  const tabs = () => [...document.querySelectorAll('#tabs button[role=tab]')];

  const put = (one, value) => {
    const kind = one.tagName === 'TEXTAREA' ? HTMLTextAreaElement : HTMLInputElement;
    Object.getOwnPropertyDescriptor(kind.prototype, 'value').set.call(one, value);
    one.dispatchEvent(new Event('input', {bubbles: true}));
  };

  const log = () => document.querySelector('#chat [role=log]');

  /** What the page has taken since, as a message that was sent, is no draft any more. Only the open tab can tell. */
  const drop = () => {
    for (const [wanted, value] of typed) {
      const one = find(wanted);
      if (!one || one.value === value) continue;
      if (one.value) typed.set(wanted, one.value);
      else typed.delete(wanted);
    }
  };

  document.addEventListener('input', (event) => {
    if (!event.isTrusted || !isText(event.target)) return;
    typed.set(key(event.target), event.target.value);
    delete window.cria.drafts?.typed[key(event.target)]; // no wish of the page before this one
  }, true);

  document.addEventListener('click', (event) => {
    if (event.target.closest?.('#tabs button[role=tab]')) drop();
  }, true);

  // gradio draws its parts when it comes to them, and some of them anew once the page's first answer is there: wishes
  // are looked after until all of them have held for a while.
  const restore = (kept) => {
    const clicked = new Map();
    let held = 0;
    const unfold = (id) => {
      const head = document.querySelector(`#${CSS.escape(id)} > button`);
      if (head?.matches('.open')) return true;
      if (head && Date.now() - (clicked.get(id) ?? 0) > slow) {
        clicked.set(id, Date.now());
        head.click();
      }
      return false;
    };
    const fill = ([wanted, value]) => {
      const one = find(wanted);
      typed.set(wanted, value);
      if (one?.value === value) return true;
      if (one) put(one, value);
      return false;
    };
    let turned = false; // once: from then on the tab is the reader's
    const turn = (one) => {
      turned ||= one?.getAttribute('aria-selected') === 'true';
      if (one && !turned) one.click();
      return turned || !one;
    };
    let still = 0; // how often the conversation was found where the reader had it
    const scroll = () => {
      const one = log();
      if (kept.below === null || still > 5 || !one) return true;
      const top = Math.max(0, one.scrollHeight - one.clientHeight - kept.below);
      still = Math.abs(one.scrollTop - top) < 2 ? still + 1 : 0;
      if (!still) one.scrollTop = top;
      return still > 5;
    };
    const attempt = () => {
      const there = turn(tabs()[kept.tab]); // only the open tab is in the page
      if (!document.querySelector('#path ol, #engine .engine')) return;
      const all = [there, scroll(), ...kept.open.map(unfold), ...Object.entries(kept.typed).map(fill)];
      held = all.every(Boolean) ? held + 1 : 0;
      if (held > 10) clearInterval(timer);
    };
    const timer = setInterval(attempt, 200);
    setTimeout(() => clearInterval(timer), 20000);
  };

  window.cria = Object.assign(window.cria ?? {}, {
    /** Put aside what is typed, what is unfolded, how far down the conversation is, and where this browser stands. */
    keepDrafts() {
      drop();
      const one = log();
      const below = one ? one.scrollHeight - one.clientHeight - one.scrollTop : null;
      const open = [...document.querySelectorAll('button.label-wrap.open')].map((one) => one.parentElement.id);
      const {stage = '', recipe = '', job = ''} = document.querySelector('#path ol')?.dataset ?? {};
      const tab = tabs().findIndex((one) => one.getAttribute('aria-selected') === 'true');
      const kept = {typed: Object.fromEntries(typed), open: open.filter(Boolean), place: [stage, recipe, job], below, tab};
      sessionStorage.setItem(store, JSON.stringify(kept));
    },

    /** Where this browser stood before the language was changed, for the page's first question; else nothing. */
    place() {
      return window.cria.drafts?.place ?? ['', '', ''];
    },
  });

  const kept = sessionStorage.getItem(store);
  if (!kept) return;
  sessionStorage.removeItem(store);
  window.cria.drafts = JSON.parse(kept);
  restore(window.cria.drafts);
})();

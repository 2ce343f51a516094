// What a person has typed and not sent is not lost: not to a change of language, which draws the page anew (it is put aside
// in this tab's own storage for the length of the reload; passwords and tokens are not), and not to gradio, which gives
// fields that have just come onto the page their first value once more.
(() => {
  const store = 'cria-drafts';
  const slow = 1500; // ms that a busy browser may take to unfold something
  const settled = 20000; // ms after which what is in front, unfolded and scrolled is the reader's, and so is a field with text
  const fresh = 3000; // ms after typing for which gradio may still take it back
  const typed = new Map(); // key -> value, since the page was opened
  const first = new Map(); // key -> what a field held before anything was typed since something was last pressed

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

  /** The messages, last one first, and how far below the upper edge each begins: what is out of sight is only estimated. */
  const messages = (one) => [...one.querySelectorAll('.message-row')].reverse()
    .map((row) => row.getBoundingClientRect().top - one.getBoundingClientRect().top);

  /** What the page has taken since, as a message that was sent, is no draft any more. Only the open tab can tell. */
  const drop = () => {
    for (const [wanted, value] of typed) {
      const one = find(wanted);
      if (!one || one.value === value) continue;
      if (one.value) typed.set(wanted, one.value);
      else typed.delete(wanted);
    }
  };

  let until = 0;
  let timer = 0;

  /** Type again what was taken back: nobody has pressed anything, and the field holds what it held before. */
  const hold = () => {
    for (const [wanted, was] of first) {
      const one = find(wanted);
      if (one && one.value === was && typed.get(wanted) !== was) put(one, typed.get(wanted));
    }
    if (Date.now() < until) return;
    clearInterval(timer);
    timer = 0;
  };

  document.addEventListener('beforeinput', (event) => {
    const one = event.target;
    if (event.isTrusted && isText(one) && !first.has(key(one))) first.set(key(one), one.value);
  }, true);

  document.addEventListener('input', (event) => {
    if (!event.isTrusted || !isText(event.target)) return;
    typed.set(key(event.target), event.target.value);
    delete window.cria.drafts?.typed[key(event.target)]; // no wish of the page before this one
    until = Date.now() + fresh;
    timer ||= setInterval(hold, 100);
  }, true);

  /** A press may take what was typed, and whoever leaves a number lets it be rounded. */
  const pressed = () => {
    first.clear();
    const wishes = window.cria.drafts?.typed ?? {};
    for (const [wanted, value] of Object.entries(wishes)) if (find(wanted)?.value === value) delete wishes[wanted];
  };

  document.addEventListener('click', (event) => {
    if (event.isTrusted && event.target.closest('button:not([role=tab], .label-wrap)')) pressed();
  }, true);
  document.addEventListener('keydown', (event) => {
    if (event.isTrusted && event.key === 'Enter' && !event.shiftKey) pressed();
  }, true);
  document.addEventListener('focusout', (event) => {
    if (event.target.type === 'number') first.delete(key(event.target));
  }, true);

  document.addEventListener('click', (event) => {
    if (event.target.closest?.('#tabs button[role=tab]')) drop();
  }, true);

  // gradio draws its parts when it comes to them, and some of them anew once the page's first answer is there: wishes
  // are looked after until they have held for a while. A text waits for its field as long as it takes.
  const restore = (kept) => {
    const began = Date.now();
    const clicked = new Map();
    const times = new Map(); // key -> how often a text was found in its field
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
    const fill = (wanted, early) => {
      const value = kept.typed[wanted];
      const one = find(wanted);
      typed.set(wanted, value);
      const there = one?.value === value;
      times.set(wanted, there ? (times.get(wanted) ?? 0) + 1 : 0);
      if (times.get(wanted) > 10 || (!early && one?.value && !there)) delete kept.typed[wanted];
      else if (one && !there) put(one, value);
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
      if (!kept.message || still > 5 || !one) return true;
      const tops = messages(one);
      const off = (tops[kept.message.index] ?? tops[tops.length - 1] ?? kept.message.top) - kept.message.top;
      const before = one.scrollTop;
      one.scrollTop += off;
      still = Math.abs(one.scrollTop - before) < 2 ? still + 1 : 0;
      return still > 5;
    };
    const attempt = () => {
      const early = Date.now() - began < settled;
      const there = !early || turn(tabs()[kept.tab]); // only the open tab is in the page
      if (document.querySelector('#path ol, #engine .engine')) {
        const all = early ? [there, scroll(), ...kept.open.map(unfold)] : [];
        held = all.every(Boolean) ? held + 1 : 0;
        Object.keys(kept.typed).forEach((wanted) => fill(wanted, early));
      }
      if ((early && held <= 10) || Object.keys(kept.typed).length) setTimeout(attempt, early ? 200 : 1000);
    };
    attempt();
  };

  window.cria = Object.assign(window.cria ?? {}, {
    /** Put aside what is typed, what is unfolded, how far down the conversation is, and where this browser stands. */
    keepDrafts() {
      drop();
      const tops = log() ? messages(log()) : [];
      const index = tops.findIndex((top) => top <= 0);
      const message = index < 0 ? null : {index, top: tops[index]}; // the one at the upper edge, counted from the end
      const open = [...document.querySelectorAll('button.label-wrap.open')].map((one) => one.parentElement.id);
      const {stage = '', recipe = '', job = ''} = document.querySelector('#path ol')?.dataset ?? {};
      const tab = tabs().findIndex((one) => one.getAttribute('aria-selected') === 'true');
      const kept = {typed: Object.fromEntries(typed), open: open.filter(Boolean), place: [stage, recipe, job], message, tab};
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

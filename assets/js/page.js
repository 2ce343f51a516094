// What the page needs before gradio wakes up. Plain functions on one object; no requests but to this server.

// gradio assigns every message's dir again at each update, which makes the browser lay the whole conversation out anew.
// Dropping assignments that change nothing keeps long conversations smooth.
(() => {
  const proto = HTMLElement.prototype;
  const dir = Object.getOwnPropertyDescriptor(proto, 'dir');
  Object.defineProperty(proto, 'dir', {
    ...dir,
    set(value) { if (dir.get.call(this) !== value) dir.set.call(this, value); },
  });
})();

// At each update gradio's framework copies every prop of the conversation, and calls this for each word and number in it,
// where there is nothing to copy: half of an update's time.
(() => {
  const copy = window.structuredClone;
  const deep = {object: true, function: true, symbol: true};
  window.structuredClone = (value, options) => (deep[typeof value] ? copy(value, options) : value);
})();

// The page keeps typed HTML from being obeyed by an invisible joiner behind its first character (ui/render/chat.py); what
// is copied goes without it.
(() => {
  const plain = (text) => text.replace(/([<&])\u2060/g, '$1');
  document.addEventListener('copy', (event) => {
    const chosen = String(document.getSelection());
    if (!event.clipboardData || plain(chosen) === chosen) return;
    event.clipboardData.setData('text/plain', plain(chosen));
    event.preventDefault();
  });
  const clipboard = navigator.clipboard;
  if (clipboard) {
    const write = clipboard.writeText.bind(clipboard);
    clipboard.writeText = (text) => write(plain(String(text)));
  }
})();

window.cria = Object.assign(window.cria ?? {}, {
  /** Remember a language for a year and draw the page in it; what is typed and not sent is kept. */
  speak(language) {
    window.cria.keepDrafts();
    document.cookie = `lang=${language};path=/;max-age=31536000;samesite=lax`;
    location.reload();
  },

  /** Show the remembered theme; without one the system's stays. */
  applyTheme() {
    const chosen = localStorage.getItem('cria-theme');
    if (chosen) document.body.classList.toggle('dark', chosen === 'dark');
  },

  /** Swap light and dark, and remember it. */
  swapTheme() {
    const dark = !document.body.classList.contains('dark');
    localStorage.setItem('cria-theme', dark ? 'dark' : 'light');
    window.cria.applyTheme();
  },

  /** Ask in the page's own language before something is lost; the words come with the header. */
  ask(what) {
    return window.confirm(document.querySelector('header.top').dataset[what]);
  },

  async post(path, body) {
    const base = document.querySelector('base')?.href ?? location.href;
    return fetch(new URL(path, base), {
      method: 'POST', headers: {'content-type': 'application/json'}, body: JSON.stringify(body),
    });
  },

  /** Send the administrator's token; its words for what went wrong come with the form. */
  async login(event) {
    event.preventDefault();
    const form = event.target;
    const said = form.querySelector('output');
    said.textContent = '';
    const answer = await window.cria.post('admin/login', {token: form.token.value.trim()});
    if (answer.ok) location.reload();
    else said.textContent = answer.status === 429 ? form.dataset.wait : form.dataset.wrong;
  },

  async logout() {
    await window.cria.post('admin/logout', {});
    location.reload();
  },
});

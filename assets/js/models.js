// Copying a folder's path out of a card. Knows nothing about models; no requests.
(() => {
  /** Copy a text; where a page came without encryption, browsers only let a selection be copied. */
  const copy = async (text) => {
    if (navigator.clipboard) return navigator.clipboard.writeText(text);
    const area = Object.assign(document.createElement('textarea'), {value: text});
    area.style.cssText = 'position:fixed;opacity:0';
    document.body.append(area);
    area.select();
    document.execCommand('copy');
    return area.remove();
  };

  window.cria = Object.assign(window.cria ?? {}, {
    /** After a press was answered: a form that it filled in comes under eyes and keyboard. */
    filled() {
      window.cria.answered();
      const form = document.querySelector('#own-folders');
      if (!form?.checkVisibility() || !form.querySelector('#form-name textarea, #form-name input')?.value) return;
      form.scrollIntoView({block: 'start'});
      const fields = [...form.querySelectorAll('#form-base :is(textarea, input), #form-loras :is(textarea, input)')];
      (fields.find((one) => !one.value) ?? fields[0])?.focus({preventScroll: true});
    },

    /** Let the buttons of a card that have a text to copy do so, and say that they did. */
    copies(element) {
      element.addEventListener('click', async (event) => {
        const pressed = event.target.closest('button[data-copy]');
        if (!pressed) return;
        await copy(pressed.dataset.copy);
        const words = pressed.textContent;
        pressed.textContent = pressed.dataset.copied;
        setTimeout(() => { pressed.textContent = words; pressed.focus(); }, 1500);
      });
    },
  });
})();

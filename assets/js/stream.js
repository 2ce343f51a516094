// A reply comes in updates. gradio draws every one of them, one after the other: a browser that draws more slowly than they
// come falls behind, and goes on "typing" long after the reply is done. Here updates wait until the one before is drawn, and
// those that wait are joined into one. Knows nothing about chats; what it does not recognise passes as it came.
(() => {
  const calm = 60; // ms for two frames in a browser that keeps up
  const patience = 200; // ms; a hidden tab has no frames
  const begun = new Set(); // events whose first update, a whole value, has passed; later ones are lists of changes

  const sleep = (ms) => new Promise((done) => { setTimeout(done, ms); });

  const frame = () => new Promise((done) => {
    const late = setTimeout(done, patience);
    requestAnimationFrame(() => { clearTimeout(late); setTimeout(done); });
  });

  /** Wait until what was given out is drawn. Between updates a slow browser gets as much time again for all else. */
  const drawn = async (rests) => {
    const before = performance.now();
    await frame();
    await frame();
    const took = performance.now() - before;
    if (rests && took > calm) await sleep(Math.min(took - calm, 500));
  };

  const read = (text) => {
    try { return JSON.parse(text.slice('data:'.length)); } catch { return null; }
  };

  const isChanges = (one) => one?.msg === 'process_generating' && one.success && !one.output?.render_config
    && !one.output?.changed_state_ids?.length && one.output?.data?.every?.(Array.isArray);

  /** Put a message behind those that wait; one that only goes on with the last of them becomes part of it. */
  const queue = (held, text) => {
    const one = read(text);
    const last = held[held.length - 1];
    const goesOn = begun.has(one?.event_id) && isChanges(one);
    if (goesOn && last?.joins && last.one.event_id === one.event_id) {
      one.output.data.forEach((changes, index) => last.one.output.data[index].push(...changes));
      last.joined = true;
    } else {
      held.push({one, text, joins: goesOn});
    }
    if (one?.msg === 'process_generating') begun.add(one.event_id);
    if (one?.msg === 'process_completed') begun.delete(one.event_id);
  };

  /** Return a stream of server-sent events that is given out at the pace at which this page draws. */
  const paced = (body) => {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let held = [];
    let rest = '';
    let drawing = false;
    let over = false;
    const words = new TextEncoder();
    const give = (out) => {
      // The question, the first text and the end wait for nothing.
      if ((drawing && held.every((one) => one.joins)) || over || !held.length) return;
      const text = held.map((one) => (one.joined ? `data: ${JSON.stringify(one.one)}` : one.text));
      const rests = held.every((one) => one.joins);
      held = [];
      out.enqueue(words.encode(`${text.join('\n\n')}\n\n`));
      drawing = true;
      drawn(rests).then(() => { drawing = false; give(out); });
    };
    const end = (out) => {
      drawing = false;
      give(out);
      over = true;
    };
    const pump = async (out) => {
      for (;;) {
        const {value, done} = await reader.read();
        if (done) return;
        const parts = (rest + value).split('\n\n');
        rest = parts.pop();
        parts.forEach((text) => queue(held, text));
        give(out);
      }
    };
    return new ReadableStream({
      start(out) {
        pump(out).then(() => { end(out); out.close(); }, (problem) => { over = true; out.error(problem); });
      },
      cancel(reason) {
        over = true;
        return reader.cancel(reason);
      },
    });
  };

  const ask = window.fetch;
  window.fetch = async (...given) => {
    const answer = await ask(...given);
    const isStream = answer.ok && answer.body && answer.headers.get('content-type')?.startsWith('text/event-stream');
    if (!isStream) return answer;
    return new Response(paced(answer.body), {status: answer.status, headers: answer.headers});
  };
})();

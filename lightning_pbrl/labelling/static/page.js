"use strict";
// The labelling page: one question at a time, its clips in step, answers by key or button.
// An answer is kept in this browser until the server has confirmed it, and is sent again after any failure.
(() => {
  const $ = (id) => document.getElementById(id);
  const meta = (name) => document.querySelector(`meta[name="${name}"]`).content;
  const element = (tag, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };
  const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
  const wantsStill = matchMedia("(prefers-reduced-motion: reduce)");
  const OUTBOX = `answer:${meta("csrf").slice(0, 16)}:`; // of this link: another run may be served at the same address later
  const strengths = (question) => meta("strength") === "yes" || question.kind === "graded" ? { better: 0.5, much: 1 } : { better: null, much: null };
  const compared = (question) => question.kind === "pair" || question.kind === "graded"; // two clips, with the sides as answers
  const PAUSE_BEFORE_ANSWER = 350; // ms: the second click of a double click must not answer the next question

  let shown = null; // {question, videos, since, looked, undoing}
  let following = null; // the next question, its clips loading already
  let sending = false;
  let waiting = 0; // number of the newest wait for questions, so that an older one stops

  // Talking to the server ----------------------------------------------------------------------------------------
  async function ask(address, body) {
    const headers = { Accept: "application/json" };
    const options = { headers, credentials: "same-origin", signal: AbortSignal.timeout(60000) };
    if (body !== undefined) {
      Object.assign(headers, { "Content-Type": "application/json", "X-CSRF-Token": meta("csrf") });
      Object.assign(options, { method: "POST", body: JSON.stringify(body) });
    }
    const response = await fetch(address, options);
    const content = await response.json().catch(() => ({}));
    return { sentence: "", ...content, status: response.status };
  }

  async function insist(address, body) {
    // Repeats until there is an answer that is not "try again".
    for (let pause = 1; ; pause = Math.min(2 * pause, 10)) {
      const slow = setTimeout(() => note("The server is slow to answer: leave the page open."), 2000);
      let sentence = "The page does not reach its server: it tries again by itself. Leave it open and nothing is lost.";
      try {
        const said = await ask(address, body);
        if (said.status < 500 && said.status !== 429) return said;
        sentence = said.sentence || sentence;
      } catch (error) { /* no connection */ } finally { clearTimeout(slow); }
      trouble(sentence);
      await sleep(1000 * pause);
    }
  }

  async function send(answer) {
    const name = OUTBOX + answer.key + (answer.repeat ? "#repeat" : "");
    remember(name, JSON.stringify(answer));
    const said = await insist("/answers", answer);
    if (said.status !== 403) remember(name, null); // with another link it is sent later
    return said;
  }

  function remember(name, text) {
    try {
      if (text === null) localStorage.removeItem(name);
      else localStorage.setItem(name, text);
    } catch (error) { /* storage is switched off: the answer lives in this tab only */ }
  }

  async function sendLeftovers() {
    let names = [];
    try { names = Object.keys(localStorage).filter((name) => name.startsWith(OUTBOX)); } catch (error) { /* switched off */ }
    for (const name of names) {
      try { await send(JSON.parse(localStorage.getItem(name))); } catch (error) { remember(name, null); }
    }
  }

  // Words on the page --------------------------------------------------------------------------------------------
  const note = (text) => { $("note").textContent = text; };
  const trouble = (text) => { $("trouble").textContent = text; $("trouble").hidden = !text; if (text) note(text); };
  const better = (strength) => strength === 1 ? "much better" : "better";
  const named = (choice, strength = null, kind = "rating") => typeof choice === "number" ? `${kind === "rating" ? "rating" : "clip"} ${choice + 1}`
    : { left: `left is ${better(strength)}`, right: `right is ${better(strength)}`, equal: "equal", skip: "cannot tell" }[choice];
  const address = ({ key, repeat }) => `/questions/${encodeURI(key)}${repeat ? "?repeat=true" : ""}`;

  function count(progress) {
    $("count").textContent = progress.text;
    $("bar").max = Math.max(progress.asked, 1);
    $("bar").value = progress.answered;
  }

  // Clips --------------------------------------------------------------------------------------------------------
  const sides = (question) => compared(question) ? ["Left clip", "Right clip"]
    : question.clips.length > 1 ? question.clips.map((_, place) => `Clip ${place + 1}`) : ["Clip"];

  function load(question) {
    const videos = question.clips.map((urls, place) => {
      const video = element("video", { muted: true, playsInline: true, preload: "auto", disablePictureInPicture: true });
      video.setAttribute("aria-label", `${sides(question)[place]}, ${question.length} steps`);
      if (!question.waiting) {
        for (const codec of ["webm", "mp4"]) video.append(element("source", { src: urls[codec], type: `video/${codec}` }));
        video.lastChild.addEventListener("error", () => {
          if (shown && shown.videos.includes(video)) trouble("This browser cannot play the clip: answer S (cannot tell), or open your link in another browser.");
        });
      }
      return video;
    });
    return { question, videos, looked: 0, undoing: false };
  }

  function show(next) {
    if (shown) for (const video of shown.videos) video.pause();
    shown = next;
    waiting += 1;
    const { question, videos } = shown;
    Object.assign(shown, { since: performance.now(), from: performance.now(), looked: 0 });
    const pair = compared(question), axis = question.axis ? ` in ${question.axis}` : "";
    $("ask").textContent = document.title = pair ? `Which clip is better${axis}?`
      : question.kind === "best" ? `Which clip is best${axis}?` : `How good is this clip${axis}, from 1 (worst) to ${question.levels} (best)?`;
    $("practice").hidden = !question.practice;
    $("name").textContent = question.key;
    $("feedback").hidden = true;
    trouble(question.sentence && `${question.sentence} You can answer S (cannot tell).`);
    const places = pair ? ["Left", "Right"] : question.kind === "best" ? [...Array(question.places).keys()].map((place) => `Clip ${place + 1}`) : ["Clip"];
    $("stage").classList.toggle("many", places.length > 2);
    $("stage").replaceChildren(...places.map((name, place) => {
      const making = question.waiting ? "The clip is being made: it appears here by itself." : "No picture";
      const picture = videos[place] && !question.waiting ? videos[place] : element("div", { className: "blank", textContent: making });
      return element("figure", {}, picture, element("figcaption", { textContent: name }));
    }));
    offer(question);
    $("stage").hidden = $("choices").hidden = false;
    $("playback").hidden = !videos.length || question.waiting;
    for (const kind of ["pairs", "graded", "rated", "best"]) {
      const here = { pairs: pair, graded: strengths(question).much && pair, rated: question.kind === "rating", best: question.kind === "best" }[kind];
      for (const row of document.querySelectorAll(`.keys .${kind}`)) row.hidden = !here;
    }
    if (document.activeElement !== $("usekeys")) $("ask").focus({ preventScroll: true });
    if (question.waiting) watch(shown);
    else if (!wantsStill.matches) replay();
    else paused(true);
  }

  async function watch(asked) {
    // A clip that is being made: look again until it is there.
    while (shown === asked) {
      await sleep(1000);
      const found = await ask(address(asked.question)).catch(() => null);
      if (shown !== asked || !found || found.status !== 200 || found.waiting) continue;
      const loaded = load(found);
      loaded.undoing = asked.undoing;
      show(loaded);
      note("The clips are there.");
    }
  }

  function offer(question) {
    const button = (choice, text, key, style = "", strength = null) => {
      const made = element("button", { type: "button", className: style, textContent: `${text} ` }, key ? element("kbd", { textContent: key }) : "");
      if (question.answer !== null) made.setAttribute("aria-pressed", String(question.answer === choice && question.strength === strength));
      made.addEventListener("click", (event) => { if (event.detail < 2) answer(choice, strength); });
      return made;
    };
    const skip = button("skip", "Cannot tell", "S", "skip");
    const { better, much } = strengths(question);
    const side = (choice, text, key) => [button(choice, `${text} is better`, key, `${choice} main`, better)]
      .concat(much ? button(choice, `${text} is much better`, `Shift+${key}`, `${choice} much main`, much) : []);
    const buttons = compared(question)
      ? [...side("left", "Left", "A").reverse(), button("equal", "Equal", "E"), skip, ...side("right", "Right", "D")]
      : question.kind === "best"
        ? [...Array(question.places).keys()].map((place) => button(place, `Clip ${place + 1} is best`, place < 10 ? (place + 1) % 10 : "", "main")).concat(skip)
        : [...Array(question.levels).keys()].map((level) => button(level, level + 1, "", "main")).concat(skip);
    $("choices").className = `choices ${!compared(question) ? "ratings" : much ? "strengths" : ""}`;
    $("choices").replaceChildren(...buttons);
  }

  const ready = (video) => video.readyState >= 3 ? Promise.resolve()
    : new Promise((resolve) => video.addEventListener("canplay", resolve, { once: true }));

  async function replay() {
    const { videos } = shown;
    await Promise.all(videos.map(ready));
    if (!shown || shown.videos !== videos) return;
    for (const video of videos) { video.playbackRate = Number($("speed").value); video.currentTime = 0; }
    paused(false);
  }

  function paused(stop) {
    for (const video of shown ? shown.videos : []) {
      if (stop) video.pause();
      else video.play().catch(() => {});
    }
    $("pause").firstChild.textContent = stop ? "Play " : "Pause ";
  }
  const stopped = () => !shown || !shown.videos.length || shown.videos[0].paused;
  const toggle = () => shown && shown.videos.length && (shown.videos[0].ended ? replay() : paused(!stopped()));

  function tick() {
    // One timeline: the first clip leads, another is moved when it is off by more than a frame or two.
    if (shown && shown.videos.length && shown.videos[0].duration) {
      const [lead, ...others] = shown.videos;
      for (const other of others) {
        if (!other.seeking && other.readyState > 1 && Math.abs(other.currentTime - lead.currentTime) > 0.06) other.currentTime = lead.currentTime;
      }
      if (document.activeElement !== $("time") || !lead.paused) $("time").value = lead.currentTime / lead.duration;
      const steps = shown.question.length;
      const step = `step ${Math.min(steps, 1 + Math.floor($("time").value * steps))} of ${steps}`;
      if ($("time").getAttribute("aria-valuetext") !== step) $("time").setAttribute("aria-valuetext", step);
      if (lead.ended && !lead.seeking) { if ($("loop").checked && !wantsStill.matches) replay(); else paused(true); }
    }
    requestAnimationFrame(tick);
  }

  // Questions ----------------------------------------------------------------------------------------------------
  async function fetchQuestions(without, over = "") {
    const query = without.map((key) => `without=${encodeURIComponent(key)}`).join("&");
    const said = over ? await ask(`/questions?${query}`).catch(() => ({})) : await insist(`/questions?${query}`);
    if (over && said.status !== 200) return { questions: [], over }; // a page beside a run ends with it
    if (said.status !== 200) { rest(said.sentence); return null; }
    count(said.progress);
    return said;
  }

  function rest(sentence, heading = "No question at the moment") {
    if (shown) for (const video of shown.videos) video.pause();
    shown = null;
    for (const id of ["stage", "choices", "playback", "practice", "feedback"]) $(id).hidden = true;
    $("ask").textContent = document.title = heading;
    trouble(sentence);
  }

  async function goOn() {
    // The next question, or a wait for one; then the one after it, so that its clips load meanwhile.
    const mine = waiting += 1;
    if (following) { const next = following; following = null; show(next); }
    else {
      for (let pause = 1, over = ""; ; pause = Math.min(pause + 1, 5)) {
        const said = await fetchQuestions([], over);
        if (mine !== waiting || said === null) return;
        const { questions } = said;
        over = said.over;
        if (questions.length) { trouble(""); show(load(questions[0])); if (questions[1]) following = load(questions[1]); return; }
        if (over) rest(over, "No more questions");
        else rest("Everything that was asked so far is answered. New questions appear here by themselves when the training asks; if none come, ask the researcher whether it is running.");
        await sleep(1000 * pause);
        if (mine !== waiting) return;
      }
    }
    prefetch();
  }

  async function prefetch() {
    const asked = shown;
    const said = await fetchQuestions([shown.question.key]);
    if (shown === asked && said && said.questions.length && !following) following = load(said.questions[0]);
  }

  async function answer(choice, strength = null) {
    if (!shown || shown.stored || sending || !$("feedback").hidden || performance.now() - shown.since < PAUSE_BEFORE_ANSWER) return;
    sending = true;
    const { question } = shown;
    look();
    const given = { key: question.key, choice, seconds: Math.round(shown.looked) / 1000, revision: question.revision, strength, repeat: question.repeat };
    try {
      const said = await send(given);
      trouble("");
      if (said.progress) count(said.progress);
      if (said.status === 403 || said.status === 422) { trouble(said.sentence); return; }
      if (said.status !== 200) following = null; // another tab may have answered that one too
      if (said.feedback) await acknowledge(said.feedback);
      shown.stored = true;
      goOn();
      note(said.sentence || `Stored: ${named(choice, strength, question.kind)}. ${$("count").textContent}.`);
    } finally { sending = false; }
  }

  function acknowledge(feedback) {
    $("verdict").textContent = feedback.sentence;
    $("feedback").className = feedback.right ? "feedback" : "feedback wrong";
    $("choices").hidden = true;
    $("feedback").hidden = false;
    note("");
    $("onward").focus(); // described by the verdict, so that screen readers say both
    return new Promise((resolve) => $("onward").addEventListener("click", resolve, { once: true }));
  }

  async function undo() {
    if (sending) return;
    if (shown && shown.undoing && !shown.stored) { goOn(); note("Left as it was."); return; }
    await again("/last");
  }

  async function again(address) {
    // A question that is answered already, to change its answer; the open one comes back after it.
    sending = true;
    try {
      const found = await insist(address);
      if (found.status !== 200 || !found.key) { note(found.sentence); return false; }
      if (shown && !shown.undoing && !shown.stored) following = load(shown.question); // fresh elements: the shown ones have played
      show(Object.assign(load(found), { undoing: true }));
      const was = found.answer === null ? "You have not answered this question." : `You answered "${named(found.answer, found.strength, found.kind)}".`;
      note(`${was} Answer to ${found.answer === null ? "store it" : "change it"}, or press Z to leave it.`);
      return true;
    } finally { sending = false; }
  }

  // An address that ends with #run/round/number shows that question.
  const linked = async () => location.hash.length > 1 && again(`/questions/${encodeURI(decodeURIComponent(location.hash.slice(1)))}`);

  // Time looked: while the page is visible ----------------------------------------------------------------------
  function look() {
    if (!shown) return;
    if (shown.from !== null) shown.looked += performance.now() - shown.from;
    shown.from = document.hidden ? null : performance.now();
  }
  document.addEventListener("visibilitychange", look);

  // Keys and buttons ---------------------------------------------------------------------------------------------
  function speed(by) {
    const select = $("speed");
    select.selectedIndex = Math.max(0, Math.min(select.options.length - 1, select.selectedIndex + by));
    select.dispatchEvent(new Event("change"));
    note(`Speed ${select.selectedOptions[0].textContent}`);
  }
  const KEYS = {
    a: (much) => sided("left", much), arrowleft: (much) => sided("left", much),
    d: (much) => sided("right", much), arrowright: (much) => sided("right", much), e: () => shown && compared(shown.question) && answer("equal"),
    s: () => answer("skip"), z: undo, " ": () => shown && shown.videos.length && replay(), p: toggle,
    l: () => { $("loop").checked = !$("loop").checked; note($("loop").checked ? "Loop on" : "Loop off"); },
    "-": () => speed(-1), "+": () => speed(1), "=": () => speed(1),
  };
  const sided = (choice, much) => { if (shown && compared(shown.question)) answer(choice, strengths(shown.question)[much ? "much" : "better"]); };
  function rated(digit) {
    const level = (digit + 9) % 10; // 1 is the lowest level or the first clip, 0 the tenth
    if (!shown || compared(shown.question)) return;
    if (level < (shown.question.kind === "rating" ? shown.question.levels : shown.question.places)) answer(level);
  }

  document.addEventListener("keydown", (event) => {
    const { target, key } = event;
    if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || !$("usekeys").checked) return;
    if (target.matches("input[type=range], input[type=text], select") && key !== "Escape" && !/^[asdez]$/i.test(key)) return;
    if (target.matches("select") || (key === " " && target.matches("button, summary, a, input"))) return;
    const act = /^\d$/.test(key) ? () => rated(Number(key)) : KEYS[key.toLowerCase()];
    if (act) { event.preventDefault(); act(event.shiftKey); }
  });
  $("undo").addEventListener("click", undo);
  $("replay").addEventListener("click", () => shown && replay());
  $("pause").addEventListener("click", toggle);
  $("speed").addEventListener("change", () => { for (const video of shown ? shown.videos : []) video.playbackRate = Number($("speed").value); });
  $("time").addEventListener("input", () => {
    if (!shown) return;
    paused(true);
    for (const video of shown.videos) video.currentTime = $("time").value * (video.duration || 0);
  });
  $("usekeys").addEventListener("change", () => remember("usekeys", $("usekeys").checked ? null : "no"));
  try { $("usekeys").checked = localStorage.getItem("usekeys") !== "no"; } catch (error) { /* storage is switched off */ }
  window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); }); // back button: never an old question

  requestAnimationFrame(tick);
  window.addEventListener("hashchange", () => linked().catch(() => {}));
  sendLeftovers().then(linked).catch(() => false).then((found) => found || goOn());
})();

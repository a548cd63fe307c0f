"use strict";
// The review page: two clips in step, arrow keys to the neighbours.
(() => {
  const videos = [...document.querySelectorAll("video")];
  const pause = document.getElementById("pause");
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  let playing = !still;

  const ready = (video) => video.readyState >= 3 ? Promise.resolve()
    : new Promise((resolve) => video.addEventListener("canplay", resolve, { once: true }));

  function play() {
    pause.firstChild.textContent = playing ? "Pause " : "Play ";
    for (const video of videos) {
      if (playing) video.play().catch(() => {});
      else video.pause();
    }
  }

  function toggle() {
    playing = !playing;
    play();
  }

  async function again() {
    await Promise.all(videos.map(ready));
    for (const video of videos) video.currentTime = 0;
    play();
  }

  if (videos.length) {
    pause.hidden = false;
    pause.addEventListener("click", toggle);
    videos[0].addEventListener("ended", again);
    again();
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
    const link = { ArrowLeft: "before", ArrowRight: "after" }[event.key];
    if (link) document.getElementById(link)?.click();
    else if (event.key.toLowerCase() === "p" && videos.length) toggle();
  });
})();

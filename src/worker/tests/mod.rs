mod lockstep;
mod script;
mod threads;
